"""One part in a process of its own; it writes what is known so far as a line of JSON, again and again.

  python -m benchmarks.gpu.worker '{"part": "sample_step", "small": true, "runs": 1, "cap": 60}'
"""

from collections.abc import Iterator
import importlib
import json
import sys
import time

from benchmarks.gpu import parts, sizes
from emv3_jax.errors import InputError

_SHARE = 0.6  # of the cap, after which no further run begins


def results(part: str, small: bool, runs: int, cap: float) -> Iterator[dict]:
  """Runs a part.

  Args:
    part: a name of `parts.PARTS`, or `device`.
    small: whether it runs at small sizes, on any platform.
    runs: most that are timed, at least one.
    cap: seconds that the part may take; near them no further run begins.

  Yields:
    What is known so far; of a part that cannot run here only why it was `skipped`.
  """
  start = time.monotonic()
  found = parts.DEVICE if part == "device" else parts.PARTS[part]
  keep_on = lambda seconds: len(seconds) < runs and time.monotonic() - start < _SHARE * cap
  of_torch = parts.is_of_torch(part)
  if of_torch and (reason := missing(small)):
    yield {"skipped": reason}
    return
  # Imported here: no process has both JAX and PyTorch on the device.
  module = importlib.import_module(f"benchmarks.gpu.{'diffusers_modules' if of_torch else 'ours'}")
  yield from found.run(module, sizes.SMALL if small else sizes.FULL, keep_on, "cpu" if small else "gpu")


def missing(small: bool) -> str | None:
  """Why PyTorch's parts cannot run here, or None."""
  try:
    import diffusers
    import torch
  except ModuleNotFoundError as error:
    return f"needs {error.name}, which is not installed"
  if not hasattr(diffusers, "WanTransformer3DModel"):
    return f"needs a diffusers with WanTransformer3DModel, this is {diffusers.__version__}"
  return None if small or torch.cuda.is_available() else "this PyTorch finds no GPU"


def main() -> int:
  try:
    for result in results(**json.loads(sys.argv[1])):
      sys.stdout.write(json.dumps(result) + "\n")
      sys.stdout.flush()
  except InputError as error:
    sys.stdout.write(json.dumps({"failed": str(error)}) + "\n")
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
