"""Inputs by seed and index, and what becomes of them."""

import pathlib
import random
import shlex

from tests.fuzz import commands, more_commands
from tests.fuzz.folders import Stock
from tests.fuzz.shell import Shell
from tests.fuzz.verdict import Case, faults, look

# A kind that is named more often comes more often.
KINDS = (
    commands.sample_clip, commands.sample_settings, commands.sample_manifest, more_commands.convert,
    commands.prepare, more_commands.train_run, commands.sample_clip, more_commands.train_settings,
    more_commands.plan, more_commands.convert, commands.sample_clip, more_commands.export,
    commands.sample_manifest, more_commands.train_run, more_commands.puppets, more_commands.verify,
    commands.sample_clip, commands.prepare, commands.sample_manifest, more_commands.train_run)


class Fuzzer:
  """A worker, what inputs are made of, and a folder for each input.

  Args:
    root: for all of it.
    seconds: that a command may take.
  """

  def __init__(self, root: pathlib.Path, seconds: float = 120):
    self.root, self._seconds, self.shell = root, seconds, Shell(root / "worker")
    (root / "stock").mkdir(parents=True)
    self.stock = Stock(root / "stock", lambda command, arguments: self.shell.run(command, arguments, root).code)

  def make(self, seed: int, index: int) -> Case:
    """The input of that index in the folder INDEX, which is made."""
    folder = self.root / f"{seed}_{index}"
    folder.mkdir()
    return KINDS[index % len(KINDS)](folder, self.stock, random.Random(f"{seed}/{index}"))

  def try_one(self, seed: int, index: int, tell=lambda case, ended: None) -> str:
    """Runs an input; what is wrong with how it ended, with all that is needed to run it again, or ""."""
    case = self.make(seed, index)
    before = look(case.folder)
    ended = self.shell.run(case.command, case.arguments, case.folder, self._seconds)
    tell(case, ended)
    found = faults(case, ended, before, look(case.folder))
    if not found:
      return ""
    said = ended.stderr if len(ended.stderr) < 5000 else f"{ended.stderr[:1500]}\n[...]\n{ended.stderr[-3500:]}"
    return (f"seed {seed}, index {index}: {'; '.join(found)}\nin {case.folder}: "
            f"{case.command} {shlex.join(case.arguments)!a}\nexit code {ended.code}, stderr:\n{said}\n"
            f"again: python -m tests.fuzz --seed={seed} --first={index} --count=1 --keep=DIR")
