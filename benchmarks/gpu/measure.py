"""Runs that are timed, and what is reported of them; the same for JAX and PyTorch."""

from collections.abc import Callable, Iterator
import statistics
import time
from typing import Any

from emv3_jax.plan import utilisation

GIB = 2 ** 30
Result = dict[str, Any]
KeepOn = Callable[[list[float]], bool]  # from the seconds of the runs so far to whether another is wanted


def runs(run: Callable[[], Any], keep_on: KeepOn) -> Iterator[tuple[float, list[float], Any]]:
  """Runs once to warm up, then while it is wanted, at least once.

  Args:
    run: ends when the device has finished.
    keep_on: whether another run is wanted.

  Yields:
    After each run but the first: seconds of the first, seconds of all others so far, and a list of the run's result.
    It is emptied before the next run, whose peak memory would else include it.
  """
  first = _timed(run, [])
  seconds: list[float] = []
  while not seconds or keep_on(seconds):
    results: list[Any] = []
    seconds.append(_timed(run, results))
    yield first, list(seconds), results
    results.clear()


def _timed(run: Callable[[], Any], results: list[Any]) -> float:
  start = time.perf_counter()
  results.append(run())
  return time.perf_counter() - start


def figures(tflop: float, seconds: list[float], device: str, peak_bytes: int | None, executed: float = 1.0
            ) -> Result:
  """What a part reports of its runs.

  Args:
    tflop: operations of a run that its result needs, in 1e12.
    seconds: of the runs.
    device: kind of device, as JAX and PyTorch name it.
    peak_bytes: most that the allocator had handed out; None where it does not say.
    executed: factor of the operations with those that are computed again.
  """
  typical = statistics.median(seconds)
  peak = utilisation.peak_flops(device)
  share = None if peak is None else tflop * 1e12 / typical / peak
  found = {"device": device, "seconds": [_rounded(s) for s in seconds], "median_seconds": _rounded(typical),
           "tflop": _rounded(tflop), "tflop_per_second": _rounded(tflop / typical), "share_of_peak": _rounded(share),
           "peak_gib": _rounded(peak_bytes and peak_bytes / GIB)}
  if executed > 1:
    found["share_with_recomputation"] = _rounded(share and share * executed)
  return found


def _rounded(value: float | None) -> float | None:
  return None if value is None else float(f"{value:.4g}")
