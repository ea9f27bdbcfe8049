"""Profile of a run: seconds and peak memory of each part."""

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


DESCRIPTIONS = {  # of the parts, for the log line at the start of each
    "inputs": "Reading and checking the inputs", "text_encoder": "Encoding the prompt",
    "audio_encoder": "Encoding the voice", "image_encoder": "Encoding the picture for CLIP",
    "vae_encode": "Encoding the given frames", "transformer": "Sampling",
    "vae_decode": "Decoding the pictures"}


class Profile:
  """Measures the parts of a run, in the order of their first use.

  Attributes:
    seconds, peak_gib: by part.
    evaluations: how many times the blocks of the transformer ran, each guidance branch of each window for itself.
  """

  def __init__(self):
    self.evaluations = 0
    self.seconds: dict[str, float] = {}
    self.peak_gib: dict[str, float] = {}

  @contextlib.contextmanager
  def measure(self, name: str) -> Iterator[None]:
    """Logs the first start of a part and measures its seconds; on Linux also its own peak resident memory."""
    measurable = _reset_peak()
    start = time.perf_counter()
    description = DESCRIPTIONS.get(name, name)
    if processes.is_first() and name not in self.seconds:
      logging.info("%s ...", description)
    try:
      with start_up.at_work(description):
        yield
    finally:
      self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
      if measurable:
        self.peak_gib[name] = max(self.peak_gib.get(name, 0.0), peak_gib())
      logging.vlog(1, "%s: %.1f s", name, self.seconds[name])

  def as_dict(self) -> dict:
    """Returns `seconds` and `peak_memory_gib` by part, rounded to two decimals, and `network_evaluations`."""
    return {
        "network_evaluations": self.evaluations,
        "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        "peak_memory_gib": {name: round(value, 2) for name, value in self.peak_gib.items()},
    }


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the packages that affect the numbers, and the device."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  device = jax.devices()[0]
  return {"python": platform.python_version(), **found,
          "device": f"{jax.device_count()}x {device.platform} {device.device_kind}"}


def _reset_peak() -> bool:
  """Resets the kernel's peak memory of this process; returns False where this is not possible."""
  try:
    _CLEAR_REFS.write_text("5")
  except OSError:
    return False
  return True


def peak_gib() -> float:
  """Returns the peak resident memory of this process in GiB, shared memory included."""
  line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
  return int(line.split()[1]) / 2**20
