"""Throughput of a run: steps, clips and tokens a second, input stalls, utilisation of the devices."""

from collections.abc import Callable, Iterator
import contextlib
import math
import time

from emv3_jax import geometry

RUNNING = 2  # steps that are started before the oldest has to be done


class Throughput:
  """Counts between two records of metrics.

  The first steps, which compile or are only started, checkpoints and previews are left out.

  Args:
    operations: from a step of the run and the shape of its batch's latents [b, f, H8, W8, 16] to
      its floating-point operations, without and with those that are recomputed to save memory; None
      where that is not known. Without it no utilisation is reported.
    peak: operations a second of all devices of the run.
    lead: steps that are started before the first one has to be done: the time from one start to the
      next does not measure them.
  """

  def __init__(self, operations: Callable[[int, tuple[int, ...]], tuple[int, int | None]] | None = None,
               peak: float = 0.0, lead: int = RUNNING):
    self._operations, self._peak, self._lead = operations, peak, lead
    self._counted_to: float | None = None  # time up to which was counted
    self._seconds = self._stalled = self._waited = 0.0
    self._steps = self._clips = self._tokens = self._work = 0
    self._run: int | None = 0  # operations with those that are recomputed

  def count(self, step: int, shape: tuple[int, ...], stalled: float) -> None:
    """A step was started, on latents of `shape`; `stalled`: seconds waited for data so far."""
    now = time.perf_counter()
    waited = stalled - self._waited if stalled >= self._waited else stalled  # else of other batches
    self._waited = stalled
    if self._lead > 0:
      self._lead, self._counted_to = self._lead - 1, now
      return
    self._stalled += waited
    self._seconds += now - (now if self._counted_to is None else self._counted_to)
    self._counted_to = now
    b, f, height8, width8, _ = shape
    self._steps += 1
    self._clips += b
    self._tokens += b * f * math.prod(geometry.grid_of_latents((height8, width8)))
    if self._operations:
      work, run = self._operations(step, shape)
      self._work += work
      self._run = None if run is None or self._run is None else self._run + run

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves the time of the block out."""
    start = time.perf_counter()
    try:
      yield
    finally:
      if self._counted_to is not None:
        self._counted_to += time.perf_counter() - start

  def read(self) -> dict[str, float]:
    """Figures since the last call; none where no step was counted."""
    if not self._steps:
      return {}
    seconds = max(self._seconds, 1e-9)
    figures = {"seconds_per_step": self._seconds / self._steps, "clips_per_second": self._clips / seconds,
            "tokens_per_second": self._tokens / seconds,
            "input_stall_share": min(1.0, self._stalled / seconds)}
    if self._operations and self._peak:
      figures["mfu"] = self._work / seconds / self._peak
      if self._run is not None:
        figures["hfu"] = self._run / seconds / self._peak
    self._seconds = self._stalled = 0.0
    self._steps = self._clips = self._tokens = self._work = self._run = 0
    return figures
