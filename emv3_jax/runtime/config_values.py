"""Values of config fields: the types that dataclasses give them, and their text on the command line."""

import ast
import dataclasses
import sys
import types
import typing
from typing import Any

from emv3_jax.errors import InputError
from emv3_jax.limits import check, shown

_EXAMPLES = {str: "text", bool: False, int: 1, float: 1.0, tuple: ()}


def alternatives(hint: Any) -> list:
  """Returns the types of a union without None; for other types the type itself."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return [part for part in typing.get_args(hint) if part is not type(None)]
  return [hint]


def field_type(hint: Any, name: str) -> Any:
  """Returns the annotated type of field `name` of the dataclass `hint`; None if that is not known."""
  group = alternatives(hint)[0]
  return typing.get_type_hints(group).get(name) if dataclasses.is_dataclass(group) else None


def field_defaults(hint: Any) -> dict[str, Any]:
  """Returns plain default values by field of the dataclass `hint`; None for fields without one."""
  group, found = alternatives(hint)[0], {}
  for field in dataclasses.fields(group) if dataclasses.is_dataclass(group) else ():
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
      value = field.default_factory()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
      value = dataclasses.asdict(value)
    found[field.name] = None if value is dataclasses.MISSING else value
  return found


def entry_type(hint: Any, number: int) -> Any:
  """Returns the annotated type of entry `number` of the tuple `hint`; None if that is not known."""
  origin, parts = typing.get_origin(alternatives(hint)[0]), typing.get_args(alternatives(hint)[0])
  if origin is not tuple or not parts:
    return None
  return parts[0] if parts[-1] is Ellipsis else parts[number] if number < len(parts) else None


def _example(hint: Any) -> Any:
  """Returns an example of a value of the type `hint`; None if that is not known."""
  of = alternatives(hint)[0]
  if typing.get_origin(of) is typing.Literal:
    return typing.get_args(of)[0]
  return _EXAMPLES.get(typing.get_origin(of) or of)


def parse(name: str, text: str, old: Any, hint: Any = None) -> Any:
  """Parses `text` as a value of the type of `old` or, if that is None, of the type `hint`.

  Raises:
    InputError: it is not one; names the field, `name`.
  """
  if old is None:
    old = _example(hint)
  if isinstance(old, str):
    return text
  if isinstance(old, bool):
    if text.lower() in ("true", "false", "1", "0"):
      return text.lower() in ("true", "1")
  else:
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
      value = _named_number(text)
    if isinstance(old, float) and isinstance(value, (int, float)) and type(value) is not bool:
      return as_float(f"--config.{name}", value)
    if isinstance(old, int) and type(value) is int:
      return value
    if isinstance(old, (tuple, list)) and isinstance(value, (tuple, list)):
      return type(old)(value)
  raise InputError(f"--config.{name}={shown(text)[1:-1]}: expected a value like {shown(old)} "
                   f"({type(old).__name__}).")


def _named_number(text: str) -> float | None:
  """Parses NaN and infinity, which are not Python literals, so that a later check names them."""
  return float(text) if text.strip().lstrip("+-").lower() in ("nan", "inf", "infinity") else None


def as_float(where: str, value: float) -> float:
  """Converts a number to float.

  Raises:
    InputError: it is not finite, or an integer that is too large for floating point.
  """
  check(where, value, (-sys.float_info.max, sys.float_info.max))
  return float(value)
