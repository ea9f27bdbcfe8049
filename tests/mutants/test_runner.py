"""The runner of the mutants, on a project of one function."""

import dataclasses
import json
import pathlib

import pytest

from tests.mutants.__main__ import part_of, table, write_evidence
from tests.mutants.mutant import Mutant, WrongMutant, of
from tests.mutants.run import Result, Results, run

TESTS = """
from toy.sums import add

def test_add():
  assert add(2, 3) == 5

def test_zeros():
  assert add(0, 0) == 0

def test_that_fails():
  assert False
"""


@pytest.fixture
def project(tmp_path) -> pathlib.Path:
  root = tmp_path / "project"
  (root / "toy").mkdir(parents=True)
  (root / "toy/__init__.py").write_text("")
  (root / "toy/sums.py").write_text("def add(a, b):\n  return a + b\n")
  (root / "checks").mkdir()
  (root / "checks/test_sums.py").write_text(TESTS)
  return root


def mutant(text: str, becomes: str, *tests: str) -> Mutant:
  (made,) = of("toy/sums.py", "checks/test_sums.py", (f"{text} is {becomes}", text, becomes, *tests))
  return made


def test_what_comes_of_mutants(project, tmp_path):
  caught = mutant("a + b", "a - b", "test_zeros", "test_add")
  survived = mutant("a + b", "a - b ", "test_zeros")
  twice = mutant("a", "b", "test_add")
  hopeless = mutant("a + b", "a * b", "test_that_fails")
  broken = mutant("return a + b", "return (", "test_add")
  mutants, told = [caught, survived, twice, hopeless, broken], []

  def attempt():
    told.clear()
    results = Results(tmp_path / "results.json")
    return run(project, mutants, results, tmp_path / "programs", 2,
               lambda *what: told.append(what), package="toy")

  found = attempt()
  assert [result.outcome for result in found] == ["caught", "survived", "error", "error", "error"]
  assert found[0].by == "checks/test_sums.py::test_add"
  assert "found 3 times" in found[2].by and "without the break" in found[3].by
  assert "ended with code" in found[4].by, "what cannot be imported tells nothing about its tests"
  assert len(told) == 5
  assert (project / "toy/sums.py").read_text() == "def add(a, b):\n  return a + b\n"
  assert not list(project.rglob("*.pyc"))
  text = table(mutants, found)
  assert "| all                  | 1        | 1        | 3        |" in text

  mutants = [caught, survived]
  assert attempt() == found[:2] and not told, "results are kept"
  (project / "checks/test_none.py").write_text("import no_such_module\n\ndef test_none(): pass\n")
  mutants = [mutant("return a + b", "return 5", "test_zeros"),
             mutant("def add(a", "def add(b", "checks/test_none.py::test_none")]
  assert [result.outcome for result in attempt()] == ["caught", "error"]

  mutants = [caught, survived]
  (project / "checks/test_sums.py").write_text(TESTS.replace("add(0, 0) == 0", "add(0, 1) == 1"))
  assert [result.outcome for result in attempt()] == ["caught"] * 2, "where nothing has changed"


def test_evidence_counts_what_came_of_all(tmp_path):
  mutants = [mutant("a", "b", "test_add"), dataclasses.replace(mutant("a", "c"), unseen="it rounds")]
  found = [Result("caught", "test_add", 1.25), Result("survived", "", 2.0)]
  write_evidence(tmp_path / "new/e.json", mutants, found, 1, 3.4)
  told = json.loads((tmp_path / "new/e.json").read_text())
  assert {name: told[name] for name in told if name not in ("date", "outcomes")} == {
      "mutants": 2, "caught": 1, "survived": 1, "error": 0, "explained": 1, "tried_now": 1,
      "seconds_now": 3, "seconds_of_tests": 3}
  assert told["outcomes"][0]["by"] == "test_add" and told["outcomes"][1]["unseen"] == "it rounds"


def test_texts_are_found_once():
  content = "x = 1\ny = 2\n"
  assert mutant("x = 1", "x = 3").broken(content) == "x = 3\ny = 2\n"
  for text, becomes in ((" = ", " == "), ("z", "x"), ("y", "y")):
    with pytest.raises(WrongMutant):
      mutant(text, becomes).broken(content)


def test_a_digest_is_of_the_code_and_the_tests(project):
  one = mutant("a + b", "a - b", "test_add")
  before = one.digest(project)
  assert one.digest(project) == before != mutant("a + b", "a * b", "test_add").digest(project)
  (project / "toy/sums.py").write_text("def add(a, b):\n  return a + b  # sum\n")
  assert one.digest(project) != before
  with pytest.raises(WrongMutant, match="test_none.py, which is not there"):
    mutant("a + b", "a - b", "checks/test_none.py::test_add").digest(project)


def test_parts():
  assert [part_of(file) for file in ("emv3_jax/models/rope.py", "convert/table.py", "run_train.py",
                                     "emv3_jax/runtime/config.py")] == [
      "models", "convert", "command lines", "runtime"]
