"""Configs: config files and overrides become frozen dataclasses.

A config file holds `get_config()` returning an `ml_collections.ConfigDict`. Overrides are
`--config.a.b=value`; entries of lists have their number as a name, `--config.a.0.b=value`. All other modules see frozen dataclasses only.

It is not left to ml_collections because that builds no dataclasses from a ConfigDict, and its flags
name neither the nearest field nor the full path of a wrong value.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import difflib
import importlib.util
import pathlib
import traceback
import types
import typing
from typing import Any

import ml_collections

from emv3_jax.errors import InputError, nearest
from emv3_jax.limits import shown
from emv3_jax.runtime import config_values, moved
from emv3_jax.runtime.command_names import as_called, config_name

if typing.TYPE_CHECKING:
  from _typeshed import DataclassInstance

_T = typing.TypeVar("_T", bound="DataclassInstance")
# A field that one kind of config has and the others have not -> the kind, its command, an example.
_KINDS = {
    "prompt_cache": ("for sampling", "emv3-sample", "tiny"),
    "train": ("for training", "emv3-train", "train_tiny"),
    "prepare": ("for preparation", "emv3-prepare", "prepare_tiny")}


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
  """Applies `a.b=value` assignments in place; `a.0.b=value` sets a field of the first entry of a list.

  A value is parsed as the type of the value that it replaces or, if that is None or the config file does
  not name the field, as the type that the field has in the dataclass.

  Args:
    config: the values of a config file.
    assignments: `a.b=value`.
    cls: the dataclass that `config` is for.

  Raises:
    InputError: unknown field or entry (with the nearest name), wrong type, or no `=`.
  """
  for assignment in assignments:
    name, equals, text = assignment.partition("=")
    if not equals:
      raise InputError(f"--config.{assignment} has no value; write --config.{assignment}=VALUE.")
    _assigned(config, name, text, "config", name.split("."), cls)


def _assigned(node: Any, name: str, text: str, seen: str, path: Sequence[str], hint: Any) -> Any:
  """Returns `node` with what is at `path` below it replaced: a ConfigDict itself, else a copy."""
  is_group = isinstance(node, (Mapping, ml_collections.ConfigDict))
  if not path:
    if is_group:
      raise InputError(f"--config.{name} is a group of fields; set one of: {', '.join(node)}.")
    return config_values.parse(name, text, node, hint)
  part, below = path[0], f"{seen}.{path[0]}"
  if isinstance(node, (tuple, list)):
    entries, number = list(node), _entry_number(node, name, seen, part)
    entries[number] = _assigned(entries[number], name, text, below, path[1:],
                                config_values.entry_type(hint, number))
    return type(node)(entries)
  defaults = config_values.field_defaults(hint) if is_group else {}
  if not is_group or part not in node and part not in defaults:
    names = dict.fromkeys([*node, *defaults]) if is_group else {}
    moved_to = moved.hint_of_field(name) or (f" {nearest(part, list(names))}" if names else " give all of it.")
    raise InputError(f"--config.{name}: {seen} has no field {part!r};{moved_to}")
  value = _assigned(node[part] if part in node else defaults[part], name, text, below, path[1:],
                    config_values.field_type(hint, part))
  if not isinstance(node, ml_collections.ConfigDict):
    return {**node, part: value}
  with node.unlocked(), node.ignore_type():
    node[part] = value
  return node


def _entry_number(entries: Sequence, name: str, seen: str, part: str) -> int:
  """Returns the index that `part` is in a list."""
  if part.isascii() and part.isdecimal() and len(part) < 9 and int(part) < len(entries):
    return int(part)
  labels = {str(number): str(entry.get("name", "")) if isinstance(entry, Mapping) else shown(entry)
            for number, entry in enumerate(entries)}
  listed = ", ".join(f"{number} ({label})" if label else number for number, label in labels.items())
  close = difflib.get_close_matches(part, [label for label in labels.values() if label], n=1)
  hint = f"did you mean {next(key for key in labels if labels[key] == close[0])} ({close[0]})?" if close else (
      f"its entries are {listed}." if listed else "it is empty.")
  raise InputError(f"--config.{name}: {seen} has no entry {part!r}; {hint}")


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
    return _convert(config_values.alternatives(hint)[0], value, where)
  if isinstance(hint, type) and dataclasses.is_dataclass(hint):
    if isinstance(value, hint):
      return value
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
    return config_values.as_float(where, value)
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
