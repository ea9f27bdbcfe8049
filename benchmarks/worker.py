"""One side of a comparison in a process of its own: builds a case, then runs it on request.

  python -m benchmarks.worker '{"side": "ours", "case": "vae_decode", "size": "full", ...}'

It answers in JSON lines on stdout: first {"gflop": ...} when warm or {"error": ...}, then for each
line on stdin {"cpu": seconds of user and system time of all threads, "wall": seconds}.
"""

from collections.abc import Callable
import json
import os
import resource
import sys
import time

from emv3_jax.errors import InputError

SIDES = ("ours", "diffusers", "reference")


def build(side: str, case: str, size: str, cores: int, reference: str | None):
  """The side's function that runs a case once, and its GFLOP.

  Imports are made here: each side's library is loaded only in its own process.
  """
  from benchmarks import cases
  case = cases.find(case, size)
  if side == "ours":
    from benchmarks import ours
    return ours.build(case)
  try:
    import torch
  except ModuleNotFoundError as error:
    raise InputError("The other side needs PyTorch; run pip install -e '.[parity]'.") from error
  torch.set_num_threads(cores)
  torch.manual_seed(0)
  if side == "diffusers":
    from benchmarks import diffusers_modules
    return diffusers_modules.build(case)
  from benchmarks import reference_modules
  return reference_modules.build(case, reference)


def timed(run: Callable[[], None]) -> dict[str, float]:
  cpu, wall = _cpu_seconds(), time.perf_counter()
  run()
  return {"cpu": _cpu_seconds() - cpu, "wall": time.perf_counter() - wall}


def _cpu_seconds() -> float:
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def main() -> int:
  answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
  answer = lambda content: answers.write(json.dumps(content) + "\n")
  request = json.loads(sys.argv[1])
  try:
    run, gflop = build(**request)
    run()
  except InputError as error:
    answer({"error": str(error)})
    return 2
  answer({"gflop": gflop})
  for _ in sys.stdin:
    answer(timed(run))
  return 0


if __name__ == "__main__":
  sys.exit(main())
