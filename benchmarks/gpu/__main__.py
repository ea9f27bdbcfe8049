"""Seconds, share of the peak and memory of sampling and training on one GPU, beside PyTorch's.

  python -m benchmarks.gpu --json=gpu.json               # or: make gpu
  python -m benchmarks.gpu --parts=sample_step,torch_sample_step
  python -m benchmarks.gpu --small                       # small networks, on the CPU too

Each part runs in a process of its own with random numbers, one after the other, and is ended when its
time is over; results are written after each. Needs JAX with its GPU, flax, optax and orbax; PyTorch with
its GPU and diffusers for the parts torch_*, which are skipped where these are missing. Goals that are
missed are reported; the exit code is 1 only where a part failed.
"""

import argparse
from collections.abc import Sequence
import datetime
import json
import pathlib
import sys
import time

from benchmarks.gpu import children, report
from benchmarks.gpu.parts import DEVICE, PARTS, is_of_torch
from emv3_jax.errors import InputError, nearest
from emv3_jax.io import atomic


def main(arguments: Sequence[str]) -> int:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--parts", default=",".join(PARTS), help="names, separated by commas; default: all")
  parser.add_argument("--runs", type=int, default=3, help="timed runs of each part, at most")
  parser.add_argument("--seconds", type=float, default=480, help="of all parts together")
  parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("gpu.json"),
                      help="file of the results; other parts of the same device stay in it")
  parser.add_argument("--small", action="store_true", help="small networks, to try it without a GPU")
  flags = parser.parse_args(arguments)
  names = flags.parts.split(",")
  for name in names:
    if name not in PARTS:
      raise InputError(f"Unknown part {name!r}; {nearest(name, list(PARTS))}")
  if flags.runs < 1:
    raise InputError(f"--runs={flags.runs}; at least 1.")

  end = time.monotonic() + flags.seconds
  about = _about(flags.small)
  results = _kept(flags.json, about)
  for name in names:
    results[name] = _run(name, flags.small, flags.runs, min(PARTS[name].cap, end - time.monotonic()))
    atomic.write_json(flags.json, {**about, "date": datetime.date.today().isoformat(), "parts": results})
    sys.stdout.write(f"{name}: {json.dumps(results[name])}\n")
    sys.stdout.flush()
  ordered = {name: results[name] for name in PARTS if name in results}
  sys.stdout.write(f"\n{report.table(ordered, {name: part.content for name, part in PARTS.items()})}\n")
  if not flags.small:
    sys.stdout.write("\n" + "\n".join(report.goals(ordered)) + "\n")
  return int(any("failed" in results[name] for name in names))


def _about(small: bool) -> dict:
  """The device and the versions; asked for in a process that gives the device back.

  Raises:
    InputError: there is no GPU, and the sizes are not the small ones.
  """
  found = _run("device", small, 1, DEVICE.cap)
  if "platform" not in found:
    raise InputError(f"JAX cannot be asked for its devices: {found}")
  if found["platform"] == "cpu" and not small:
    raise InputError("JAX finds no GPU (only a CPU); --small tries everything at small sizes.")
  return found | {"small": small}


def _run(name: str, small: bool, runs: int, cap: float) -> dict:
  if cap <= 0:
    return {"skipped": "the time of all parts was over"}
  request = {"part": name, "small": small, "runs": runs, "cap": cap}
  # JAX gets memory as it needs it, PyTorch's processes leave the GPU to PyTorch.
  environment = {"JAX_PLATFORMS": "cpu"} if is_of_torch(name) else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
  return children.last_result([sys.executable, "-m", "benchmarks.gpu.worker", json.dumps(request)], cap, environment)


def _kept(path: pathlib.Path, about: dict) -> dict:
  """Results of an earlier run on the same device with the same versions."""
  before = json.loads(path.read_text()) if path.exists() else {}
  return dict(before["parts"]) if all(before.get(key) == value for key, value in about.items()) else {}


if __name__ == "__main__":
  try:
    sys.exit(main(sys.argv[1:]))
  except InputError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(2)
