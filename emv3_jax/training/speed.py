"""How fast a run is: steps, clips and tokens a second, waiting for data, use of the devices."""

from collections.abc import Callable, Iterator
import contextlib
import time


class Speed:
  """Counts between two lines of metrics.

  The first step, which compiles, checkpoints and previews are left out.

  Args:
    operations: from a step of the run and the shape of its batch's latents [b, f, H8, W8, 16] to
      its floating-point operations; None reports no utilisation.
    peak: operations a second of all devices of the run.
  """

  def __init__(self, operations: Callable[[int, tuple[int, ...]], int] | None = None,
               peak: float = 0.0):
    self._operations, self._peak = operations, peak
    self._known: float | None = None  # up to when time was counted
    self._seconds = self._stalled = self._waited = 0.0
    self._steps = self._clips = self._tokens = self._work = 0

  def count(self, step: int, shape: tuple[int, ...], stalled: float) -> None:
    """A step was started, on latents of `shape`; `stalled`: seconds waited for data so far."""
    now, waited = time.perf_counter(), stalled - self._waited
    self._waited = stalled
    if self._known is None:
      self._known = now
      return
    self._stalled += waited
    self._seconds += now - self._known
    self._known = now
    b, f, height8, width8, _ = shape
    self._steps += 1
    self._clips += b
    self._tokens += b * f * (height8 // 2) * (width8 // 2)
    if self._operations:
      self._work += self._operations(step, shape)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves the time of the block out."""
    start = time.perf_counter()
    try:
      yield
    finally:
      if self._known is not None:
        self._known += time.perf_counter() - start

  def read(self) -> dict[str, float]:
    """Figures since the last call."""
    seconds, steps = max(self._seconds, 1e-9), max(self._steps, 1)
    told = {"seconds_per_step": self._seconds / steps, "clips_per_second": self._clips / seconds,
            "tokens_per_second": self._tokens / seconds,
            "input_stall_share": min(1.0, self._stalled / seconds)}
    if self._operations and self._peak:
      told["flops_utilisation"] = self._work / seconds / self._peak
    self._seconds = self._stalled = 0.0
    self._steps = self._clips = self._tokens = self._work = 0
    return told
