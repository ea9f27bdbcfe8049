"""Tries mutants in copies of the tree and keeps what came of each, so that a stopped run goes on."""

from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from tests.mutants.mutant import Mutant, WrongMutant

LEFT_OUT = ("build", "outputs", "runs", "data")  # at the root; so is what begins with a dot
SECONDS = 300  # for the tests of one mutant
BASELINE_SECONDS = 1800  # for the tests of some files on the tree as it is
FILES = 8  # whose tests run together on the tree as it is
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+\.py\S*)", re.MULTILINE)
_CODES = {0: "survived", 1: "caught"}  # of pytest


@dataclasses.dataclass(frozen=True)
class Result:
  """What came of a mutant.

  Attributes:
    outcome: `caught`, `survived` or `error`.
    by: the test that failed, or what the error was.
    seconds: that the tests took.
  """

  outcome: str
  by: str
  seconds: float


class Tree:
  """A copy of the project in which one mutant at a time is tried.

  Args:
    root: what is copied.
    folder: where to; does not exist yet.
    programs: folder of compiled programs that all copies share.
  """

  def __init__(self, root: pathlib.Path, folder: pathlib.Path, programs: pathlib.Path):
    self.folder = folder
    skipped = lambda where, names: [
        name for name in names if name == "__pycache__" or pathlib.Path(where) == root
        and (name in LEFT_OUT or name.startswith("."))]
    shutil.copytree(root, folder, ignore=skipped, symlinks=True)
    self._environment = {
        **os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

  def check(self, package: str) -> None:
    """
    Raises:
      RuntimeError: Python would import `package` from elsewhere than the copy.
    """
    found = subprocess.run(
        [sys.executable, "-c", f"import {package}; print({package}.__file__)"], text=True,
        cwd=self.folder.parent, env=self._environment, capture_output=True, check=True).stdout
    if pathlib.Path(found.strip()).parents[1] != self.folder:
      raise RuntimeError(f"{package} is imported from {found.strip()}, not from {self.folder}.")

  def pytest(self, tests: Sequence[str], seconds: float, *options: str) -> tuple[int | None, str]:
    """Exit code and output of pytest; None where it took longer than `seconds`."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider",
               *options, *tests]
    with subprocess.Popen(command, cwd=self.folder, env=self._environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          start_new_session=True) as process:
      try:
        said, _ = process.communicate(timeout=seconds)
        return process.returncode, said
      except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, ""
      except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise

  def attempt(self, mutant: Mutant, seconds: float = SECONDS) -> Result:
    """Breaks the copy, runs the mutant's tests and mends the copy again."""
    start, path = time.monotonic(), self.folder / mutant.file
    whole = path.read_text(encoding="utf-8")
    try:
      path.write_text(mutant.broken(whole), encoding="utf-8")
      code, said = self.pytest(mutant.tests, seconds, "-x")
    except WrongMutant as error:
      return Result("error", str(error), 0.0)
    finally:
      path.write_text(whole, encoding="utf-8")
    took = round(time.monotonic() - start, 1)
    if code is None:
      return Result("error", f"its tests took more than {seconds:g} s", took)
    if code not in _CODES:
      return Result("error", f"pytest ended with code {code}: {said.strip()[-500:]}", took)
    return Result(_CODES[code], next(iter(_FAILED.findall(said)), ""), took)


class Results:
  """Results by digest, in a JSON file that is written after each."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    self._by_digest = {key: Result(**value) for key, value in kept.get("results", {}).items()}
    self._passing = {tree: set(tests) for tree, tests in kept.get("passing", {}).items()}

  def get(self, digest: str) -> Result | None:
    return self._by_digest.get(digest)

  def put(self, digest: str, result: Result) -> None:
    self._by_digest[digest] = result
    self._write()

  def passing(self, tree: str) -> set[str]:
    """Tests that are known to pass on the tree of this digest."""
    return self._passing.get(tree, set())

  def put_passing(self, tree: str, tests: set[str]) -> None:
    self._passing = {tree: self.passing(tree) | tests}
    self._write()

  def _write(self) -> None:
    self._path.parent.mkdir(parents=True, exist_ok=True)
    content = {"passing": {tree: sorted(tests) for tree, tests in self._passing.items()},
               "results": {key: dataclasses.asdict(value)
                           for key, value in self._by_digest.items()}}
    fresh = self._path.with_suffix(".fresh")
    fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    fresh.replace(self._path)


def tree_digest(folder: pathlib.Path) -> str:
  """Identifies all Python files below a folder."""
  digest = hashlib.sha256()
  for path in sorted(folder.rglob("*.py")):
    digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
  return digest.hexdigest()


def run(root: pathlib.Path, mutants: Sequence[Mutant], results: Results, programs: pathlib.Path,
        jobs: int = 1, told: Callable[[Mutant, Result], None] = lambda *_: None,
        package: str = "emv3_jax") -> list[Result]:
  """Tries mutants, those aside whose result is known.

  First all their tests run on the tree as it is: one that fails there notices nothing.

  Args:
    root: the project.
    mutants: to try.
    results: known ones; new ones are added.
    programs: folder of compiled programs.
    jobs: copies that are worked in side by side.
    told: called with each new result.
    package: that tests import, to check where it comes from.

  Returns:
    A result for each mutant, in their order.
  """
  digests, found = {}, {}
  for mutant in mutants:
    try:
      mutant.broken((root / mutant.file).read_text(encoding="utf-8"))
      digests[mutant] = mutant.digest(root)
      known = results.get(digests[mutant])
    except (WrongMutant, OSError) as error:
      known = Result("error", str(error), 0.0)
      told(mutant, known)
    if known is not None:
      found[mutant] = known
  todo = [mutant for mutant in mutants if mutant not in found]
  if not todo:
    return [found[mutant] for mutant in mutants]

  with tempfile.TemporaryDirectory(prefix="mutants-") as place:
    trees = queue.SimpleQueue()
    for number in range(min(jobs, len(todo))):
      trees.put(Tree(root, pathlib.Path(place).resolve() / str(number), programs))

    def attempt(mutant: Mutant) -> Result:
      tree = trees.get()
      try:
        return tree.attempt(mutant)
      finally:
        trees.put(tree)

    first = trees.get()
    first.check(package)
    failing = _failing(first, todo, results)
    trees.put(first)
    for mutant in [mutant for mutant in todo if failing & set(mutant.tests)]:
      found[mutant] = Result("error", "without the break its tests fail too: "
                             f"{', '.join(sorted(failing & set(mutant.tests)))}", 0.0)
      told(mutant, found[mutant])
    todo = [mutant for mutant in todo if mutant not in found]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
      try:
        running = {pool.submit(attempt, mutant): mutant for mutant in todo}
        for future in concurrent.futures.as_completed(running):
          mutant, result = running[future], future.result()
          found[mutant] = result
          if result.outcome != "error":
            results.put(digests[mutant], result)
          told(mutant, result)
      except BaseException:
        pool.shutdown(cancel_futures=True, wait=False)
        raise
  return [found[mutant] for mutant in mutants]


def _failing(tree: Tree, mutants: Sequence[Mutant], results: Results) -> set[str]:
  """Those tests of the mutants that do not pass on the tree as it is; some files at a time."""
  digest, failing = tree_digest(tree.folder), set()
  tests = {test for mutant in mutants for test in mutant.tests} - results.passing(digest)
  files = sorted({test.partition("::")[0] for test in tests})
  for begin in range(0, len(files), FILES):
    part = {test for test in tests if test.partition("::")[0] in files[begin:begin + FILES]}
    found = _failing_of(tree, part)
    results.put_passing(digest, part - found)
    failing |= found
  return failing


def _failing_of(tree: Tree, tests: set[str]) -> set[str]:
  code, said = tree.pytest(sorted(tests), BASELINE_SECONDS)
  broken = _FAILED.findall(said)
  failing = {test for test in tests for name in broken
             if test.startswith(f"{name}::") or f"{name}[".startswith((f"{test}[", f"{test}::"))}
  if code in (0, 1):
    return failing
  if not failing:
    raise RuntimeError(f"The tests do not run on the tree as it is (code {code}):\n{said[-3000:]}")
  return failing | (_failing_of(tree, tests - failing) if tests - failing else set())
