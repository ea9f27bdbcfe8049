"""Shards of a manifest: every n-th job, for arrays of Slurm and indexed jobs of Kubernetes."""

from collections.abc import Collection, Mapping, Sequence
import re
from typing import Any

from emv3_jax.errors import InputError


def parse(text: str) -> tuple[int, int]:
  """Parses `i/n` to (index, count), index from 0.

  Raises:
    InputError: it is no shard.
  """
  found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
  index, count = (int(found[1]), int(found[2])) if found else (0, 0)
  if not found or index >= count:
    raise InputError(f"--shard={text} is no shard; write i/n with i from 0 to n - 1, e.g. --shard=0/8.")
  return index, count


def select(jobs: Sequence[Any], shard: tuple[int, int], after: Mapping[int, Collection[int]]) -> list[Any]:
  """Returns the jobs of shard (index, count): every count-th, and those that wait for one of them.

  Args:
    jobs: all jobs of the manifest.
    shard: from `parse`.
    after: lines that a line waits for; all of them come before it. They are made by one shard.
  """
  root: dict[int, int] = {}

  def find(line: int) -> int:
    while root[line] != line:
      line = root[line]
    return line

  for job in jobs:
    root[job.line] = job.line
    for line in after.get(job.line, ()):
      if line in root:
        first, second = sorted((find(line), find(job.line)))
        root[second] = first
  numbers: dict[int, int] = {}
  for job in jobs:
    numbers.setdefault(find(job.line), len(numbers))
  return [job for job in jobs if numbers[find(job.line)] % shard[1] == shard[0]]
