"""One job from look to report, the same in every engine."""

import contextlib
import dataclasses
import socket
import time
import traceback
from typing import Any

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.jobs.claims import Claim, Claims
from emv3_jax.jobs.report import Entry, now
from emv3_jax.jobs.work import Maker, Progress
from emv3_jax.runtime import processes
from emv3_jax.sampling import watching


@dataclasses.dataclass(frozen=True)
class Making:
  """Makes jobs with one maker.

  Attributes:
    maker: makes the outputs.
    claims: claims of this process in the output folder.
    retries: how often a job is tried again after it failed.
  """

  maker: Maker
  claims: Claims
  retries: int = 0

  def look(self, job: Any) -> Entry | None:
    """Returns the entry of a job that is done or cannot be made; None if it has to be made.

    Raises:
      Exception: with several processes, any error but wrong input.
    """
    try:
      entry = self._look(job)
      if entry is not None and processes.is_first():
        self.claims.clear(job.name)
      return entry
    except Exception as error:  # no error of one job may stop the others
      return failed(job, error)

  def make(self, job: Any, progress: Progress) -> Entry | None:
    """Makes a job; returns None if another run is making it.

    Raises:
      Exception: with several processes, any error of a job but wrong input, because the other processes would
        wait for the failed one forever.
    """
    attempt = 0
    while True:
      attempt, begin = attempt + 1, time.monotonic()
      try:
        entry = self._make(job, progress)
      except TakenOver as error:
        if processes.is_distributed():
          raise
        logging.warning("Line %d (%s): %s", job.line, job.name, error)
        return None
      except Exception as error:  # no error of one job may stop the others
        entry = failed(job, error)
        if attempt <= self.retries and not isinstance(error, InputError):
          logging.warning("Line %d (%s) failed and is tried again: %s", job.line, job.name, entry.reason)
          continue
      if entry is not None and entry.status != "skipped":
        entry = dataclasses.replace(entry, attempts=attempt, total_seconds=round(time.monotonic() - begin, 2))
      return entry

  def _look(self, job: Any, again: bool = False) -> Entry | None:
    processes.run_on_all(lambda: self._check(job))
    reason = processes.run_on_all(lambda: self.maker.reason_to_make(job) if processes.is_first() else None)
    if not processes.any_process(reason is not None):
      return self._entry(job, "skipped")
    if reason and not again:
      logging.info("Line %d (%s) is made again: %s.", job.line, job.name, reason)
    return None

  def _make(self, job: Any, progress: Progress) -> Entry | None:
    claim = processes.run_on_all(lambda: self.claims.take(job.name) if processes.is_first() else None)
    if not processes.any_process(claim is not None):
      return None
    with claim or contextlib.nullcontext():
      entry = self._look(job, again=True)  # the run that had the job may have finished it
      if entry is None:
        self.maker.make(job, progress if claim is None else lambda steps: _Guarded(job, claim, progress(steps)))
        entry = self._entry(job, "done")
    return entry

  def _check(self, job: Any) -> None:
    if job.fault:
      raise InputError(job.fault)
    self.maker.check(job)  # checked again, because files may have changed since

  def _entry(self, job: Any, status: str) -> Entry:
    """Returns the entry of an output that is there; an earlier run may have made it on another machine."""
    host = socket.gethostname() if status == "done" else ""
    return Entry(job.line, job.name, status, host=host, finished=now(), **self.maker.describe(job))


class _Guarded:
  """Steps of a job, of which none begins after another run has taken it over."""

  def __init__(self, job: Any, claim: Claim, steps):
    self._job, self._claim, self._steps = job, claim, steps

  def __len__(self) -> int:
    return len(self._steps)

  def __iter__(self):
    for step in self._steps:
      if not self._claim.is_held():
        raise TakenOver(f"{self._job.name} was taken over by {self._claim.owner()}, because this process gave no sign "
                        "of life for too long.")
      yield step

  def show(self, latents: Any) -> None:
    watching.show(self._steps, latents)


class TakenOver(RuntimeError):
  """Another run took the job over."""


def failed(job: Any, error: Exception) -> Entry:
  """Returns the entry of a job that failed.

  Raises:
    Exception: `error` itself, with several processes and if it is not wrong input.
  """
  if not isinstance(error, InputError) and processes.is_distributed():
    raise error
  entry = Entry(job.line, job.name, "failed", host=socket.gethostname(), finished=now(),
                reason=_reason_of(error))
  if isinstance(error, InputError):
    return entry
  return dataclasses.replace(entry, traceback="".join(traceback.format_exception(error)))


def _reason_of(error: Exception) -> str:
  if isinstance(error, InputError):
    return str(error)
  message = next(iter(str(error).splitlines()), "")
  if isinstance(error, MemoryError):
    message = message or "the memory of this machine is not enough"
  if "RESOURCE_EXHAUSTED" in message:  # of a device, from JAX
    message = f"the device's memory is not enough, --plan shows settings that need less ({message})"
  return f"{type(error).__name__}: {message[:300]}".removesuffix(": ")
