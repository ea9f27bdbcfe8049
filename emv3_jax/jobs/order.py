"""The order of jobs: each after those that it waits for, jobs of one group together."""

from collections.abc import Collection, Hashable, Mapping, Sequence
import time
from typing import Any


class Queue:
  """Jobs that are still to be made, by line.

  Args:
    jobs: the jobs in the order of the manifest.
    after: lines that a line waits for; lines that are not among `jobs` are not waited for.
    groups: group of a line, e.g. the shape of its clip; jobs of one group follow each other.
  """

  def __init__(self, jobs: Sequence[Any], after: Mapping[int, Collection[int]] | None = None,
               groups: Mapping[int, Hashable] | None = None):
    self._jobs = {job.line: job for job in jobs}
    self._group = dict(groups or {})
    self._after = {line: set((after or {}).get(line, ())) & self._jobs.keys() for line in self._jobs}
    first: dict[Hashable, int] = {}
    for line in self._jobs:
      first.setdefault(self._group.get(line), len(first))
    self._rank = {line: (first[self._group.get(line)], number) for number, line in enumerate(self._jobs)}
    self._waiting = {line for line, lines in self._after.items() if lines}
    self._ready = sorted(self._jobs.keys() - self._waiting, key=self._rank.__getitem__, reverse=True)
    self._later: list[tuple[float, int]] = []
    self._out: set[int] = set()

  def __len__(self) -> int:
    """Number of jobs that are not finished, those that were taken included."""
    return len(self._jobs)

  @property
  def jobs(self) -> list[Any]:
    """Jobs that are not finished, in the order of the manifest."""
    return list(self._jobs.values())

  def take(self, group: Hashable = None) -> Any | None:
    """Takes the next job, of `group` if there is one; None if none is ready now."""
    now = time.monotonic()
    due = [line for until, line in self._later if until <= now]
    if due:
      self._later = [(until, line) for until, line in self._later if until > now]
      self._ready[:0] = due[::-1]  # behind all others
    if not self._ready:
      return None
    index = len(self._ready) - 1
    if group is not None and self._group.get(self._ready[index]) != group:
      index = next((i for i in range(index, -1, -1) if self._group.get(self._ready[i]) == group), index)
    line = self._ready.pop(index)
    self._out.add(line)
    return self._jobs[line]

  def group(self, job: Any) -> Hashable:
    """Returns the group of a job."""
    return self._group.get(job.line)

  def put_back(self, job: Any, seconds: float = 0.0) -> None:
    """Gives back a job that was taken, to be taken again after the others and not before `seconds`."""
    self._out.discard(job.line)
    self._later.append((time.monotonic() + seconds, job.line))

  def finish(self, job: Any) -> None:
    """Ends a job; those that waited for it may be taken."""
    self._out.discard(job.line)
    self._jobs.pop(job.line, None)
    free = []
    for line in self._waiting:
      self._after[line].discard(job.line)
      if not self._after[line]:
        free.append(line)
    self._waiting -= set(free)
    self._ready[:0] = sorted(free, key=self._rank.__getitem__, reverse=True)
