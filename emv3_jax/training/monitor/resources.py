"""Where the time of a run goes, and the memory that it takes; host calls only, no device is waited for."""

from collections.abc import Iterator
import contextlib
import resource
import sys
import time

import jax

PARTS = ("data", "step", "checkpoint", "previews")  # of every record; others where they took time


class Seconds:
  """Wall-clock seconds of the main thread by part, between two records; `step` is what no other part took.

  The first record counts from here on, so that it has the compilation of the programs under `step`.
  """

  def __init__(self):
    self._since = time.perf_counter()
    self._parts: dict[str, float] = {}

  def add(self, part: str, seconds: float) -> None:
    """Adds seconds that were measured elsewhere."""
    self._parts[part] = self._parts.get(part, 0.0) + seconds

  @contextlib.contextmanager
  def measure(self, part: str) -> Iterator[None]:
    """Adds the time of the block."""
    start = time.perf_counter()
    try:
      yield
    finally:
      self.add(part, time.perf_counter() - start)

  def read(self) -> dict[str, float]:
    """`seconds/PART` since the last call; they add up to the time since then."""
    now, parts = time.perf_counter(), self._parts
    total, self._since, self._parts = now - self._since, now, {}
    parts = {**dict.fromkeys(PARTS, 0.0), **parts, "step": max(0.0, total - sum(parts.values()))}
    return {f"seconds/{part}": seconds for part, seconds in parts.items()}


class Memory:
  """Peak memory of this process and of its devices, each since the process started."""

  def __init__(self):
    self._host = 0.0

  def sample(self) -> None:
    """Takes the host's peak so far, which the profile of a preview starts anew."""
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30
    self._host = max(self._host, peak)

  def read(self) -> dict[str, float]:
    """`memory/host_peak_gib`; `memory/device_peak_gib`, of the fullest device, where the backend counts it."""
    self.sample()
    found = {"memory/host_peak_gib": self._host}
    peaks = [stats["peak_bytes_in_use"] for device in jax.local_devices()
             if "peak_bytes_in_use" in (stats := device.memory_stats() or {})]
    if peaks:
      found["memory/device_peak_gib"] = max(peaks) / 2**30
    return found
