"""The engine that makes jobs in this process, one after the other."""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
import pathlib
import time
from typing import Any

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.jobs.claims import Claims
from emv3_jax.jobs.making import Making
from emv3_jax.jobs.order import Queue
from emv3_jax.jobs.report import REPORT, Entry, Outcome, Report, now
from emv3_jax.jobs.work import Maker, Options
from emv3_jax.runtime import processes

LOOK_AGAIN = 5.0  # most seconds between two looks at jobs of other runs


def run(maker: Maker, jobs: Sequence[Any], folder: str | pathlib.Path, *, options: Options | None = None,
        after: Mapping[int, Collection[int]] | None = None,
        groups: Callable[[Sequence[Any]], Mapping[int, Hashable]] = lambda jobs: {},
        progress: Callable[[Any, str], Any] = lambda steps, what: steps,
        report: str | pathlib.Path = REPORT) -> Outcome:
  """Makes the outputs of jobs; those that are done are skipped, and failures do not stop the others.

  Jobs that another run is making are made last, if they are still not done then; until that is known the run waits.
  A run that is stopped, by any exception that is no `Exception`, writes its report and gives its claims back.

  Args:
    maker: makes the outputs.
    jobs: jobs in the order of the manifest, each with its own line.
    folder: output folder, which exists.
    options: how often jobs are tried.
    after: lines that a line waits for.
    groups: gives the group of each of the jobs that have to be made, by line; jobs of one group follow each other.
    progress: wraps the steps of a job, and is given the name of the work.
    report: name of the report in `folder`.

  Raises:
    InputError: a file that is no report is where the report is written.
    Exception: with several processes, any error of a job but wrong input.
  """
  options, folder = options or Options(), pathlib.Path(folder)
  written = processes.run_on_all(lambda: Report(folder / report if processes.is_first() else None))
  making = Making(maker, Claims(folder, options.claim_seconds), options.retries)
  jobs = list(jobs)
  queue, current = Queue(jobs, after), None
  try:
    queue = look(making, jobs, written, after, groups)
    waits = False
    while len(queue):
      current = queue.take()
      if current is None:
        _wait(making, queue.jobs, options, waits)
        waits = True
        continue
      number, job = len(jobs) - len(queue) + 1, current
      entry = making.make(job, lambda steps, n=number, job=job: progress(
          steps, f"job {n} of {len(jobs)} ({job.name})"))
      current = None
      if entry is None and processes.is_distributed():  # all of them agree on the order, not on the time
        queue.put_back(job)
        time.sleep(pause(options))
        continue
      if entry is None:
        queue.put_back(job, pause(options))
        continue
      tell(entry)
      written.add(entry)
      queue.finish(job)
  finally:
    for job in (job for job in queue.jobs if job.line not in written.entries):
      reason = "stopped while it was made" if job is current else "not begun"
      written.add(Entry(job.line, job.name, "stopped", reason, finished=now()))
    if processes.is_first():
      written.finish()
  return written.outcome()


def look(making: Making, jobs: Sequence[Any], report: Report, after: Mapping[int, Collection[int]] | None,
         groups: Callable[[Sequence[Any]], Mapping[int, Hashable]]) -> Queue:
  """Looks at all jobs, adds those that are done or cannot be made to the report, and queues the others.

  A job that waits for one that has to be made is not looked at, because its inputs may change.
  """
  left, lines = [], set[int]()
  for job in jobs:
    waits = lines.intersection((after or {}).get(job.line, ()))
    entry = None if waits and not job.fault else making.look(job)
    if entry is None:
      left.append(job)
      lines.add(job.line)
    else:
      tell(entry)
      report.add(entry)
  # The order of several processes has to be the same, whatever each of them sees of the files.
  return Queue(left, after, {} if processes.is_distributed() else groups(left))


def tell(entry: Entry) -> None:
  """Logs the end of a job."""
  if entry.status == "done":
    logging.info("Line %d (%s) done.", entry.line, entry.name)
  elif entry.status == "skipped":
    logging.info("Line %d (%s) is done already.", entry.line, entry.name)
  else:
    logging.error("Line %d (%s) failed: %s", entry.line, entry.name, entry.reason)
    if entry.traceback:
      logging.vlog(1, "%s", entry.traceback)


def pause(options: Options) -> float:
  """Returns the seconds after which a job of another run is looked at again."""
  return min(LOOK_AGAIN, options.claim_seconds / 4)


def _wait(making: Making, jobs: Sequence[Any], options: Options, told: bool) -> None:
  if not told:
    owner = making.claims.owner(jobs[0].name)
    logging.info("%d jobs are made by other runs (%s by %s); waiting for them.", len(jobs), jobs[0].name,
                 owner or "one that ends")
  time.sleep(pause(options) / 4)


def check_report(path: pathlib.Path, manifest: str | pathlib.Path) -> None:
  """Checks that a report does not replace the manifest.

  Raises:
    InputError: they are the same file.
  """
  if path.exists() and path.samefile(manifest):
    raise InputError(f"Manifest {manifest} is where the report of the run is written; give it another name, or "
                     "choose another --out.")
