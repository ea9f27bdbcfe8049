"""Seconds and peak memory by part of a run."""

from collections.abc import Iterator
import contextlib
import importlib.metadata
import pathlib
import platform
import time

from absl import logging
import jax

from emv3_jax.runtime import processes, start_up

_STATUS = pathlib.Path("/proc/self/status")
_CLEAR_REFS = pathlib.Path("/proc/self/clear_refs")
_PACKAGES = ("emv3-jax", "jax", "jaxlib", "flax", "numpy", "orbax-checkpoint", "av")


DOING = {  # what a part does, for the line that it begins with
    "inputs": "Reading and checking the inputs", "text_encoder": "Encoding the prompt",
    "audio_encoder": "Encoding the voice", "image_encoder": "Encoding the picture for CLIP",
    "vae_encode": "Encoding the known pictures", "transformer": "Sampling",
    "vae_decode": "Decoding the pictures"}


class Report:
  """Collects what a run cost, part by part, in the order of first use."""

  def __init__(self):
    self.seconds: dict[str, float] = {}
    self.peak_gib: dict[str, float] = {}

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Says what begins and times it; on Linux also its peak resident memory, parts before it not counted in."""
    measurable = _reset_peak()
    start = time.perf_counter()
    doing = DOING.get(name, name)
    if processes.is_first():
      logging.info("%s ...", doing)
    try:
      with start_up.at_work(doing):
        yield
    finally:
      self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
      if measurable:
        self.peak_gib[name] = max(self.peak_gib.get(name, 0.0), peak_gib())
      logging.vlog(1, "%s: %.1f s", name, self.seconds[name])

  def as_dict(self) -> dict:
    """`seconds` and `peak_memory_gib` by part, rounded for reading."""
    return {
        "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        "peak_memory_gib": {name: round(value, 2) for name, value in self.peak_gib.items()},
    }


def versions() -> dict[str, str]:
  """Versions of Python, of the packages that decide the numbers, and of the device."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  device = jax.devices()[0]
  return {"python": platform.python_version(), **found,
          "device": f"{jax.device_count()}x {device.platform} {device.device_kind}"}


def _reset_peak() -> bool:
  """Resets the kernel's high-water mark of this process; False where that is not possible."""
  try:
    _CLEAR_REFS.write_text("5")
  except OSError:
    return False
  return True


def peak_gib() -> float:
  """The most memory that this process has held at once, of its own and shared."""
  line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
  return int(line.split()[1]) / 2**20
