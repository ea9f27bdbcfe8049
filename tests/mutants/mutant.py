"""What a mutant is, and the form that the tables have."""

from collections.abc import Sequence
import dataclasses
import hashlib
import importlib
import pathlib
import pkgutil


class WrongMutant(ValueError):
  """A mutant that cannot be tried: its text is not there once, or a test's file is missing."""


@dataclasses.dataclass(frozen=True)
class Mutant:
  """One break.

  Attributes:
    file: the file that is broken, from the root of the tree.
    breaks: what is wrong then, in a few words.
    text: a part of one of its lines, found exactly once in the file.
    becomes: what stands there instead.
    tests: node ids of the tests that have to notice, as few and as quick as possible.
    unseen: why no test can notice; empty where one has to.
  """

  file: str
  breaks: str
  text: str
  becomes: str
  tests: tuple[str, ...]
  unseen: str = ""

  def broken(self, content: str) -> str:
    """The file's content with the break.

    Raises:
      WrongMutant: the text is not found exactly once, or nothing would change.
    """
    found = content.count(self.text)
    if found != 1:
      raise WrongMutant(f"{self.file}: {self.text!r} is found {found} times, wanted once.")
    if self.text == self.becomes:
      raise WrongMutant(f"{self.file}: {self.text!r} would stay as it is.")
    return content.replace(self.text, self.becomes)

  def test_files(self) -> list[str]:
    """The files of its tests, each once."""
    return list(dict.fromkeys(test.partition("::")[0] for test in self.tests))

  def digest(self, root: pathlib.Path) -> str:
    """Identifies the mutant with the code that it breaks and the tests that look at it.

    Raises:
      WrongMutant: one of the files is missing.
    """
    digest = hashlib.sha256(repr(dataclasses.astuple(self)).encode())
    for name in (self.file, *self.test_files()):
      if not (root / name).is_file():
        raise WrongMutant(f"{self.file}: {self.breaks!r} names {name}, which is not there.")
      digest.update((root / name).read_bytes())
    return digest.hexdigest()


def of(file: str, tests: str, *rows: Sequence[str]) -> list[Mutant]:
  """The mutants of a file.

  Args:
    file: what is broken.
    tests: the test file that most rows mean.
    *rows: (breaks, text, becomes, test, ...). A test is a function of `tests`, with parameters in
      brackets where one case is enough, or a node id of its own.
  """
  return [Mutant(file, breaks, text, becomes,
                 tuple(name if "/" in name else f"{tests}::{name}" for name in names))
          for breaks, text, becomes, *names in rows]


def all_mutants() -> list[Mutant]:
  """The mutants of all tables, in the order of the tables' names."""
  from tests.mutants import tables
  names = sorted(module.name for module in pkgutil.iter_modules(tables.__path__))
  return [mutant for name in names
          for mutant in importlib.import_module(f"{tables.__name__}.{name}").MUTANTS]
