"""What engines are given: jobs, and a maker of their outputs."""

from collections.abc import Callable, Iterable
import dataclasses
from typing import Any, Protocol

from emv3_jax.errors import InputError

Progress = Callable[[Any], Iterable]  # wraps the iterator of steps of one job


class Job(Protocol):
  """One output to make. Jobs are compared by their line."""

  @property
  def line(self) -> int:
    """Number that no other job has, from 1."""
    ...

  @property
  def name(self) -> str:
    """Name of the output without suffix."""
    ...

  @property
  def fault(self) -> str:
    """Why the job cannot be made; empty if it can."""
    ...


class Maker(Protocol):
  """Makes outputs of jobs in one folder, one at a time.

  An engine knows of outputs only what the maker says: a job is done if `reason_to_make` returns None, whoever
  made it. `make` writes files whole or not at all, the one by which they are known to be complete last.
  """

  def check(self, job: Any) -> None:
    """Raises InputError if the output of `job` cannot be written."""

  def reason_to_make(self, job: Any) -> str | None:
    """Returns why the output has to be made, "" if there is none yet; None if it is complete and of this job."""

  def make(self, job: Any, progress: Progress) -> None:
    """Makes the output of `job`; raises InputError for wrong input, and any other error."""

  def describe(self, job: Any) -> dict[str, Any]:
    """Returns fields of `report.Entry` of a finished output: seconds, seed, device, digests."""
    ...


@dataclasses.dataclass(frozen=True)
class Options:
  """How often jobs are tried.

  Attributes:
    retries: how often a job is tried again after it failed; wrong input is not tried again.
    max_lost: a job whose worker was lost so often fails.
    claim_seconds: the claim of a run that shows no sign of life for so long is taken over.
  """

  retries: int = 0
  max_lost: int = 10
  claim_seconds: float = 120.0

  def __post_init__(self):
    if self.retries < 0:
      raise InputError(f"--retries is {self.retries}; it must be 0 or more.")
    if self.max_lost < 1:
      raise InputError(f"--max_lost is {self.max_lost}; it must be 1 or more.")
