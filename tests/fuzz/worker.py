"""The process that runs commands, one after another: lines of JSON in, a line of JSON back for each.

A command is run as its own process would run it, but for what takes seconds each time: packages stay
imported, and networks that were loaded stay loaded.
"""

import faulthandler
import json
import logging
import os
import pathlib
import signal
import sys
import traceback

from convert import __main__ as convert
from emv3_jax.commands import sample, train
from emv3_jax.preparation import __main__ as prepare
from emv3_jax.puppets import __main__ as puppets
from emv3_jax.runtime import command_line
from emv3_jax.sampling import model as model_lib
from emv3_jax.verify import __main__ as verify


def _door(main):
  return lambda: command_line.run(main)


COMMANDS = {"sample": _door(lambda arguments: sample.main(arguments)), "train": _door(train.main),
            "prepare": _door(prepare.main), "verify": _door(verify.main),
            "convert": lambda: sys.exit(convert.main()), "puppets": _door(puppets.main)}


class Told(logging.Handler):
  """Lines of progress and warnings, which are no part of the message that a command ends in."""

  def __init__(self):
    super().__init__()
    self.lines: list[str] = []

  def emit(self, record: logging.LogRecord) -> None:
    self.lines += record.getMessage().splitlines()


def keep_networks() -> None:
  """Loads what was asked for before only once: tracing it anew takes longer than all else."""
  loaded, load = {}, model_lib.load

  def kept(*arguments, **options):
    key = repr((arguments, options))
    if key not in loaded:
      if len(loaded) == 4:
        loaded.pop(next(iter(loaded)))
      loaded[key] = load(*arguments, **options)
    return loaded[key]

  sample.load = prepare.load = kept


def run(name: str, arguments: list[str]) -> int:
  """The exit code of a command; a traceback goes to stderr, as the interpreter would write it."""
  sys.argv = [name, *arguments]
  try:
    COMMANDS[name]()
  except SystemExit as ended:
    return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
  except BaseException:
    traceback.print_exc()
    return 1
  raise AssertionError("a command came back")


def main(folder: pathlib.Path) -> None:
  """Answers on the stdout that it was started with; what commands write goes to files in `folder`."""
  asked, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
  written = [os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND) for name in ("stdout", "stderr")]
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  for number, file in enumerate(written, 1):
    os.dup2(file, number)
  faulthandler.enable()
  faulthandler.register(signal.SIGUSR1)
  command_line.show_own_messages()
  command_line.show_own_messages = lambda: None  # once for a process
  told, verbosity = Told(), logging.getLogger("absl").level
  logging.getLogger().addHandler(told)
  keep_networks()
  for line in asked:
    task = json.loads(line)
    told.lines.clear()
    for file in written:
      os.ftruncate(file, 0)
    os.chdir(task["folder"])
    command_line.logging.set_verbosity(command_line.logging.INFO)
    logging.getLogger("absl").setLevel(verbosity)
    code = run(task["command"], task["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    answers.write(json.dumps({"code": code, "told": told.lines}) + "\n")
    answers.flush()


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
