"""The command line of the mutants; see the package. Exit code 1 where one survives unexplained."""

import argparse
import collections
import datetime
import json
import pathlib
import sys
import time

from tests.mutants.mutant import Mutant, WrongMutant, all_mutants
from tests.mutants.run import Result, Results, run

ROOT = pathlib.Path(__file__).parents[2]
OUTCOMES = ("caught", "survived", "error")


def main(arguments: list[str]) -> int:
  parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
  parser.add_argument("--only", default="", help="those with this in their file or what they break")
  parser.add_argument("--jobs", type=int, default=1, help="how many are tried side by side")
  parser.add_argument("--list", action="store_true", help="show them and stop")
  parser.add_argument("--check", action="store_true", help="look whether they still apply, and stop")
  parser.add_argument("--results", default="build/mutants/results.json",
                      help="where results are kept; without the file all are tried again")
  parser.add_argument("--evidence", help="write the outcome of all as JSON")
  flags = parser.parse_args(arguments)
  mutants = [mutant for mutant in all_mutants() if flags.only in f"{mutant.file}: {mutant.breaks}"]
  if flags.list:
    print("\n".join(f"{mutant.file}: {mutant.breaks}" for mutant in mutants))
    return 0
  if flags.check:
    faults = list(filter(None, map(fault_of, mutants)))
    print("\n".join([*faults, f"{len(mutants)} mutants, {len(faults)} do not apply."]))
    return 1 if faults else 0
  results, count, start = Results(ROOT / flags.results), 0, time.monotonic()

  def told(mutant: Mutant, result: Result) -> None:
    nonlocal count
    count += 1
    print(f"{count:4} {result.outcome:8} {result.seconds:6.1f} s  {mutant.file}: {mutant.breaks}",
          flush=True)
    if result.outcome == "error":
      print(f"     {result.by}", flush=True)

  print(f"{len(mutants)} mutants. Before the first break all their tests run, for some minutes.",
        flush=True)
  found = run(ROOT, mutants, results, (ROOT / flags.results).parent / "programs", flags.jobs, told)
  print(table(mutants, found))
  open_ones = [mutant for mutant, result in zip(mutants, found, strict=True)
               if result.outcome == "error" or result.outcome == "survived" and not mutant.unseen]
  for mutant in open_ones:
    print(f"Not caught: {mutant.file}: {mutant.breaks}")
  if flags.evidence:
    write_evidence(ROOT / flags.evidence, mutants, found, count, time.monotonic() - start)
  return 1 if open_ones else 0


def fault_of(mutant: Mutant) -> str:
  """Why a mutant cannot be tried; empty where it can."""
  try:
    mutant.broken((ROOT / mutant.file).read_text(encoding="utf-8"))
    mutant.digest(ROOT)
  except (WrongMutant, OSError) as error:
    return str(error)
  for test in mutant.tests:
    file, _, name = test.partition("::")
    if f"def {name.partition('[')[0]}(" not in (ROOT / file).read_text(encoding="utf-8"):
      return f"{mutant.file}: {mutant.breaks!r} names {test}, which is not there."
  return ""


def table(mutants: list[Mutant], found: list[Result]) -> str:
  """Counts by part of the project."""
  parts = collections.defaultdict(collections.Counter)
  for mutant, result in zip(mutants, found, strict=True):
    parts[part_of(mutant.file)][result.outcome] += 1
    parts["all"][result.outcome] += 1
  rows = [("part", *OUTCOMES)] + [
      (part, *(str(parts[part][outcome]) for outcome in OUTCOMES))
      for part in (*sorted(parts.keys() - {"all"}), "all")]
  return "\n".join("| " + " | ".join(cell.ljust(20 if i == 0 else 8) for i, cell in enumerate(row))
                   + " |" for row in rows)


def part_of(file: str) -> str:
  """`models` of emv3_jax/models/rope.py, `convert` of convert/table.py."""
  folders = pathlib.PurePath(file).parts[:-1]
  return folders[1] if len(folders) > 1 else "convert" if folders == ("convert",) else "command lines"


def write_evidence(path: pathlib.Path, mutants: list[Mutant], found: list[Result],
                   fresh: int, seconds: float) -> None:
  """Writes the outcome of all as JSON; `fresh` of them were tried now, in `seconds`, not before."""
  entries = [{"file": mutant.file, "breaks": mutant.breaks, "text": mutant.text,
              "becomes": mutant.becomes, "outcome": result.outcome, "by": result.by,
              "seconds": result.seconds, **({"unseen": mutant.unseen} if mutant.unseen else {})}
             for mutant, result in zip(mutants, found, strict=True)]
  counts = collections.Counter(result.outcome for result in found)
  content = {"date": datetime.date.today().isoformat(), "mutants": len(mutants),
             **{outcome: counts[outcome] for outcome in OUTCOMES},
             "explained": sum(bool(mutant.unseen) for mutant in mutants),
             "tried_now": fresh, "seconds_now": round(seconds), "seconds_of_tests": round(
                 sum(result.seconds for result in found)), "outcomes": entries}
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
