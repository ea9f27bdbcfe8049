"""Shared parts of the command lines: flags, config overrides, error messages."""

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import dataclasses
import json
import logging as std_logging
import os
import pathlib
import signal
import sys
import time
from typing import TypeVar
import warnings

from absl import flags, logging
import jax
import ml_collections
import tqdm

import emv3_jax
from emv3_jax.errors import InputError, Stopped
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime import start_up

LINES, LONGEST = 3, 1000  # most lines of a message, and most characters of a line
LINE_EVERY = 10.0  # seconds between lines of progress where stderr is not a terminal
STOPPED = 75  # exit code: not finished, the same command continues (EX_TEMPFAIL of sysexits.h)

_Item = TypeVar("_Item")
_PACKAGE = str(pathlib.Path(emv3_jax.__file__).parent) + os.sep
_OVERRIDE = "--config."
_LESS = ("--plan says beforehand what a config takes, and what would take less: more devices "
         "(--config.mesh), fewer pixels or frames, sampling.branches=in_turn.")


class Parser(argparse.ArgumentParser):
  """An argument parser whose errors are `InputError`s with the nearest flag."""

  def __init__(self, **kwargs):
    super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
                     **kwargs)

  def error(self, message: str):
    raise InputError(f"{message[0].upper()}{message[1:]}; see {self.prog} --help.")

  def parse(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses flags; returns them and the `a.b=value` overrides of the config.

    Raises:
      InputError: an unknown flag; the message names the nearest flag.
    """
    arguments = list(arguments)
    overrides, rest = [], []
    while arguments:
      argument = arguments.pop(0)
      if not argument.startswith(_OVERRIDE):
        rest.append(argument)
      elif "=" in argument or not arguments:
        overrides.append(argument.removeprefix(_OVERRIDE))
      else:
        overrides.append(f"{argument.removeprefix(_OVERRIDE)}={arguments.pop(0)}")
    flags, unknown = self.parse_known_args(rest)
    if unknown:
      options = [option for action in self._actions for option in action.option_strings]
      name = unknown[0].partition("=")[0]
      raise InputError(f"Unknown argument {unknown[0]}; {config_lib.nearest(name, options)}")
    return flags, overrides


def read_config(path: str, overrides: Sequence[str], cls) -> ml_collections.ConfigDict:
  """Reads a config file and applies overrides, for the dataclass `cls`; see `emv3_jax.runtime.config`."""
  config = config_lib.read_config_file(path, [field.name for field in dataclasses.fields(cls)])
  config_lib.override(config, overrides, cls)
  return config


def overridden_fields(overrides: Sequence[str]) -> frozenset[str]:
  """Returns the dotted names of the fields that the command line overrides.

  Where it overrides an entry of a list, `a.0` or a field of it, the list `a` is among them too.
  """
  names = set()
  for assignment in overrides:
    parts = assignment.partition("=")[0].split(".")
    names.add(".".join(parts))
    names |= {".".join(parts[:index]) for index, part in enumerate(parts) if part.isdecimal()}
  return frozenset(names)


def print_config(config: Mapping, defaults: Mapping, overrides: Sequence[str],
                 origins: Mapping[str, str] | None = None) -> None:
  """Writes a config to stdout as JSON; its field `origins` says where each value comes from.

  Args:
    config: nested mappings of plain values.
    defaults: the values of the code, nested in the same way.
    overrides: `a.b=value` of the command line.
    origins: origins by dotted name, of a list for all that is in it, which replace those derived from the other
      arguments.
  """
  named, code = _flat(config), _flat(defaults)
  on_command_line = overridden_fields(overrides)
  lists = tuple(f"{assignment.partition('=')[0]}." for assignment in overrides)  # given as a whole

  def origin(name: str) -> str:
    known = next((value for of, value in (origins or {}).items() if f"{name}.".startswith(f"{of}.")), None)
    if known is not None:
      return known
    if name in on_command_line or name.startswith(lists):
      return "command line"
    return "code" if name in code and repr(code[name]) == repr(named[name]) else "config"

  text = json.dumps({**config, "origins": {name: origin(name) for name in named}}, indent=2, ensure_ascii=False)
  sys.stdout.write(text + "\n")


def _flat(values: Mapping, before: str = "") -> dict:
  """Flattens nested values to dotted names, and lists of groups too; other lists become tuples."""
  flat = {}
  for name, value in values.items():
    if isinstance(value, (tuple, list)) and value and all(isinstance(entry, Mapping) for entry in value):
      value = {str(number): entry for number, entry in enumerate(value)}
    if isinstance(value, Mapping) and value:
      flat |= _flat(value, f"{before}{name}.")
    else:
      flat[before + name] = tuple(value) if isinstance(value, list) else value
  return flat


def legible(message: str) -> str:
  """Shortens long quoted names and values in a message."""
  lines = message.splitlines()
  if len(lines) > LINES:
    lines = [" ".join(message.split())]
  half = LONGEST // 2
  return "\n".join(line if len(line) <= LONGEST else f"{line[:half]} ... {line[-half:]}" for line in lines)


def tell(text: str) -> None:
  """Writes a message to stderr, above the progress bar if there is one."""
  tqdm.tqdm.write(text, file=sys.stderr)


def progress(items: Collection[_Item], what: str, unit: str) -> Iterator[_Item]:
  """Yields `items` and shows progress: a bar on a terminal, elsewhere a log line every `LINE_EVERY` seconds.

  Args:
    items: the items to yield.
    what: name of the work, e.g. `sampling`.
    unit: name of one item, e.g. `step`.
  """
  if sys.stderr.isatty():
    yield from tqdm.tqdm(items, desc=what, unit=unit, disable=not len(items))
    return
  last_logged = time.monotonic()
  for number, item in enumerate(items, 1):
    yield item
    if number == len(items) or time.monotonic() - last_logged >= LINE_EVERY:
      last_logged = time.monotonic()
      logging.info("%s: %s %d of %d.", what.capitalize(), unit, number, len(items))


def _above_bars(emit: Callable) -> Callable:
  """Wraps a log handler's `emit` so that records appear above the progress bar."""
  def above(record: std_logging.LogRecord) -> None:
    with tqdm.tqdm.external_write_mode(file=sys.stderr):
      emit(record)

  return above


def show_own_messages() -> None:
  """Logs messages of this project, and warnings and errors of libraries, to stderr, one line each."""
  flags.FLAGS.mark_as_parsed()  # absl logging waits for absl flags, which are not used here
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  std_logging.getLogger("jax").setLevel(std_logging.WARNING)
  quieten_asyncio()
  log_warnings()
  handler = logging.get_absl_handler()
  handler.setFormatter(None)
  handler.python_handler.emit = _above_bars(handler.python_handler.emit)
  handler.addFilter(_is_shown)


def _is_shown(record: std_logging.LogRecord) -> bool:
  """Returns whether a record is a warning, or a message of this package or of the running script."""
  own = (_PACKAGE, str(pathlib.Path(sys.argv[0]).resolve()))
  return (record.levelno >= std_logging.WARNING
          or str(pathlib.Path(record.pathname).resolve()).startswith(own))


def log_warnings() -> None:
  """Sends Python's warnings (for example Pillow's about damaged metadata) to the log, one line each."""
  warnings.showwarning = lambda message, *_: logging.warning("%s", " ".join(str(message).split()))


def quieten_asyncio() -> None:
  """Keeps asyncio from printing tracebacks of tasks that nothing awaits.

  When a disk is full, Orbax raises the error of the first array and drops those of the others, which
  asyncio would print later.
  """
  std_logging.getLogger("asyncio").setLevel(std_logging.CRITICAL)


def stay_on_cpu_without_accelerator() -> None:
  """Keeps JAX from loading an installed TPU or CUDA library on a machine without such a device.

  The library may be installed for plans; loading it takes seconds and prints many lines.
  `JAX_PLATFORMS` takes precedence if it is set.
  """
  nodes = ("accel*", "vfio/[0-9]*", "nvidia[0-9]*", "dxg", "kfd")
  if "JAX_PLATFORMS" not in os.environ and not any(
      any(pathlib.Path("/dev").glob(pattern)) for pattern in nodes):
    jax.config.update("jax_platforms", "cpu")


def run(main: Callable[[Sequence[str]], int]) -> None:
  """Runs a command line and exits with its code.

  Errors become messages on stderr: `InputError` with exit code 2; too little device memory with exit
  code 1 and a list of settings that need less; SIGTERM and Ctrl-C with exit code 75.
  """
  signal.signal(signal.SIGTERM, _stop)
  start_up.watch()
  show_own_messages()
  stay_on_cpu_without_accelerator()
  try:
    code = main(sys.argv[1:])
  except InputError as error:
    tell(legible(str(error)))
    code = 2
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    tell(f"The device's memory is not enough: {str(error).splitlines()[0]}\n{_LESS}")
    code = 1
  except KeyboardInterrupt as interrupt:
    how = str(interrupt) if isinstance(interrupt, Stopped) else "by Ctrl-C"
    tell(f"Stopped {how}; the same command goes on.")
    code = STOPPED
  sys.exit(code)


def _stop(number: int, _) -> None:
  """Raises KeyboardInterrupt as Ctrl-C does, so that partial files are removed."""
  signal.signal(number, signal.SIG_IGN)  # a second signal would interrupt the clean-up
  raise Stopped("by SIGTERM")
