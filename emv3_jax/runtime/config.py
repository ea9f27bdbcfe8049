"""Configs: config files and overrides become frozen dataclasses.

A config file holds `get_config()` returning an `ml_collections.ConfigDict`. Overrides are
`--config.a.b=value`. All other modules see frozen dataclasses only.

It is not left to ml_collections because that builds no dataclasses from a ConfigDict, and its flags
name neither the nearest field nor the full path of a wrong value.
"""

import ast
from collections.abc import Collection, Mapping, Sequence
import dataclasses
import difflib
import importlib.util
import pathlib
import sys
import traceback
import types
import typing

import ml_collections

from emv3_jax.errors import InputError
from emv3_jax.limits import check, shown
from emv3_jax.runtime import moved
from emv3_jax.runtime.command_names import as_called, config_name

if typing.TYPE_CHECKING:
  from _typeshed import DataclassInstance

_T = typing.TypeVar("_T", bound="DataclassInstance")
# A field that one kind of config has and the others have not -> the kind, its command, an example.
_KINDS = {
    "prompt_cache": ("for sampling", "emv3-sample", "tiny"),
    "train": ("for training", "emv3-train", "train_tiny"),
    "prepare": ("for preparation", "emv3-prepare", "prepare_tiny")}


def nearest(name: str, names: Sequence[str]) -> str:
  """Returns a hint for a mistyped name: `did you mean 'steps'?`, or the list of all names."""
  close = difflib.get_close_matches(name, names, n=1)
  return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(names))}."


def shipped_configs() -> dict[str, pathlib.Path]:
  """Returns the files of the shipped configs by name; in a checkout they are in configs/."""
  package = importlib.util.find_spec("emv3_jax.configs")
  assert package is not None and package.origin is not None  # it is a part of this package
  return {path.stem: path for path in sorted(pathlib.Path(package.origin).parent.glob("[!_]*.py"))}


def read_config_file(path: str | pathlib.Path, wanted: Collection[str] = ()) -> ml_collections.ConfigDict:
  """Runs `get_config()` of a config file.

  Args:
    path: path of the file, or the name of a shipped config, e.g. `tiny`.
    wanted: fields that configs of the wanted kind have; a config of another kind is refused. If it is
      empty, any kind is accepted.

  Raises:
    InputError: there is no such file, it cannot be read or run, it has no `get_config`, or it is a config
      of another kind.
  """
  shipped = shipped_configs()
  path = shipped.get(str(path), pathlib.Path(path))
  if not path.is_file():
    raise InputError(f"Config {path} is not a file, nor one of the shipped configs; these are: "
                     f"{', '.join(shipped)}.")
  spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
  if spec is None or spec.loader is None:
    raise InputError(f"Config {path} is not a Python file (*.py).")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise InputError(f"Config {path} does not parse: {error}.") from error
  except (Exception, SystemExit) as error:  # it is the user's program, which may raise anything
    raise InputError(_raised(path, error)) from error
  if not callable(getattr(module, "get_config", None)):
    raise InputError(f"Config {path} has no get_config(); a config file must define it.")
  try:
    values = module.get_config()
  except (Exception, SystemExit) as error:
    raise InputError(_raised(path, error)) from error
  if not isinstance(values, ml_collections.ConfigDict):
    raise InputError(f"Config {path}: get_config() gives {type(values).__name__}; an "
                     "ml_collections.ConfigDict is wanted.")
  examples = [example for name, (*_, example) in _KINDS.items() if name in wanted]
  for field, (kind, command, _) in _KINDS.items():
    if examples and field in values and field not in wanted:
      raise InputError(f"Config {path} is one {kind} (it has {field!r}), for {as_called(command)}; "
                       f"here one like {config_name(examples[0])} is wanted.")
  return values


def _raised(path: pathlib.Path, error: BaseException) -> str:
  """Describes the error of a config file and its line."""
  if isinstance(error, OSError) and error.filename == str(path):
    return f"Config {path} cannot be read ({error.strerror})."
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
           if frame.filename == str(path)]
  where = f", line {lines[-1]}," if lines else ""
  if isinstance(error, ImportError) and (found := moved.module_of(error)):
    return f"Config {path}{where} imports {found[0]}, which is {found[1]} now; change the line."
  message = " ".join(str(error).split())
  return f"Config {path}{where} ends in {type(error).__name__}: {message[:300]}"


def override(config: ml_collections.ConfigDict, assignments: Sequence[str], cls) -> None:
  """Applies `a.b=value` assignments in place.

  A value is parsed as the type of the value that it replaces or, if that is None, as the type that the
  field has in the dataclass.

  Args:
    config: the values of a config file.
    assignments: `a.b=value`.
    cls: the dataclass that `config` is for.

  Raises:
    InputError: unknown field (with the nearest name), wrong type, or no `=`.
  """
  for assignment in assignments:
    name, equals, text = assignment.partition("=")
    if not equals:
      raise InputError(f"--config.{assignment} has no value; write --config.{assignment}=VALUE.")
    path = name.split(".")
    parent, node, seen = config, config, "config"
    for part in path:
      if not isinstance(node, ml_collections.ConfigDict) or part not in node:
        names = list(node.keys()) if isinstance(node, ml_collections.ConfigDict) else []
        hint = moved.hint_of_field(name) or f" {nearest(part, names)}"
        raise InputError(f"--config.{name}: {seen} has no field {part!r};{hint}")
      parent, node, seen = node, node[part], f"{seen}.{part}"
    if isinstance(node, ml_collections.ConfigDict):
      raise InputError(f"--config.{name} is a group of fields; set one of: {', '.join(node)}.")
    value = _parse_value(name, text, node if node is not None else _example(cls, name))
    with parent.unlocked(), parent.ignore_type():
      parent[path[-1]] = value


_EXAMPLES = {str: "text", bool: False, int: 1, float: 1.0, tuple: ()}


def _example(cls, name: str):
  """Returns an example value for the field `name`, a dotted path, of the dataclass `cls`."""
  hint = cls
  for part in name.split("."):
    hint = next(h for h in _alternatives(typing.get_type_hints(hint)[part]))
  return _EXAMPLES[typing.get_origin(hint) or hint]


def _alternatives(hint) -> list:
  """Returns the types of a union without None; for other types the type itself."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return [part for part in typing.get_args(hint) if part is not type(None)]
  return [hint]


def _parse_value(name: str, text: str, old):
  """Parses `text` as a value of the type of `old`."""
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
      return _as_float(f"--config.{name}", value)
    if isinstance(old, int) and type(value) is int:
      return value
    if isinstance(old, (tuple, list)) and isinstance(value, (tuple, list)):
      return type(old)(value)
  raise InputError(f"--config.{name}={shown(text)[1:-1]}: expected a value like {shown(old)} "
                   f"({type(old).__name__}).")


def _named_number(text: str) -> float | None:
  """Parses NaN and infinity, which are not Python literals, so that a later check names them."""
  return float(text) if text.strip().lstrip("+-").lower() in ("nan", "inf", "infinity") else None


def _as_float(where: str, value: float) -> float:
  """Converts a number to float.

  Raises:
    InputError: it is not finite, or an integer that is too large for floating point.
  """
  check(where, value, (-sys.float_info.max, sys.float_info.max))
  return float(value)


def build(cls: type[_T], values: Mapping | ml_collections.ConfigDict, where: str = "config") -> _T:
  """Builds the frozen dataclass `cls` from nested mappings, checking names and types strictly.

  Raises:
    InputError: unknown or missing field, or a value of the wrong type; names its full path.
  """
  hints = typing.get_type_hints(cls)
  names = {field.name for field in dataclasses.fields(cls)}
  for name in values:
    if name not in names:
      hint = moved.hint_of_field(f"{where}.{name}") or f" {nearest(str(name), sorted(names))}"
      raise InputError(f"{where} has no field {shown(name)};{hint}")
  arguments = {}
  for field in dataclasses.fields(cls):
    if field.name in values:
      arguments[field.name] = _convert(hints[field.name], values[field.name],
                                       f"{where}.{field.name}")
    elif (field.default is dataclasses.MISSING
          and field.default_factory is dataclasses.MISSING):
      raise InputError(f"{where}.{field.name} is missing.")
  try:
    return cls(**arguments)
  except InputError:
    raise
  except ValueError as error:  # a check in __post_init__
    raise InputError(f"{where}: {error}") from error


def _convert(hint, value, where: str):
  """Converts `value` to the annotated type `hint`."""
  origin, parameters = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    if value is None and type(None) in parameters:
      return None
    if any(isinstance(h, type) and type(value) is h for h in parameters if h is not float):
      return value
    return _convert(_alternatives(hint)[0], value, where)
  if isinstance(hint, type) and dataclasses.is_dataclass(hint):
    if not isinstance(value, (Mapping, ml_collections.ConfigDict)):
      raise InputError(f"{where} is {shown(value)}; expected a group of fields.")
    return build(hint, value, where)
  if origin is tuple:
    if not isinstance(value, (tuple, list)):
      raise InputError(f"{where} is {shown(value)}; expected a list.")
    inner = parameters[:1] * len(value) if parameters[-1] is Ellipsis else parameters
    if len(inner) != len(value):
      raise InputError(f"{where} has {len(value)} values; expected {len(inner)}.")
    return tuple(_convert(h, v, where) for h, v in zip(inner, value, strict=True))
  if hint is float and type(value) in (int, float):
    return _as_float(where, value)
  if isinstance(hint, type) and type(value) is not hint:
    raise InputError(f"{where} is {shown(value)}; expected {hint.__name__}.")
  return value


def _plain(value):
  return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def differences(left, right, where: str = "") -> list[str]:
  """Lists the fields in which two dataclasses or nested dicts differ, as `path: left != right`."""
  left, right = (_plain(x) for x in (left, right))
  if isinstance(left, Mapping) and isinstance(right, Mapping):
    return [line for name in sorted(left.keys() | right.keys())
            for line in differences(left.get(name), right.get(name),
                                    f"{where}.{name}" if where else name)]
  if isinstance(left, list):
    left = tuple(left)
  if isinstance(right, list):
    right = tuple(right)
  if repr(_tupled(left)) == repr(_tupled(right)):
    return []
  return [f"{where}: {left!r} != {right!r}"]


def _tupled(value):
  return tuple(_tupled(v) for v in value) if isinstance(value, (tuple, list)) else value
