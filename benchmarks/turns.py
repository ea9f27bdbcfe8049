"""Two worker processes take turns, A B A B: what disturbs the machine disturbs both."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

from emv3_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
# Passive: PyTorch's threads wait asleep. Otherwise they spin, which would count as their work.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclasses.dataclass(frozen=True)
class Side:
  """One side's runs of a case.

  Attributes:
    name: ours, diffusers or reference.
    gflop: of one run, where counted.
    cpu: user and system seconds of each round.
    wall: seconds of each round.
  """

  name: str
  gflop: float | None
  cpu: list[float]
  wall: list[float]

  @property
  def least_cpu(self) -> float:
    return min(self.cpu)

  @property
  def least_wall(self) -> float:
    return min(self.wall)


@dataclasses.dataclass(frozen=True)
class Comparison:
  case: str
  a: Side
  b: Side

  @property
  def ratio(self) -> float:
    """The figure: A's smallest CPU seconds over B's."""
    return self.a.least_cpu / self.b.least_cpu

  @property
  def wall_ratio(self) -> float:
    return self.a.least_wall / self.b.least_wall


class Worker:
  """A running `benchmarks.worker` on the cores that this process may use."""

  def __init__(self, **request):
    self._side = request["side"]
    cores = sorted(os.sched_getaffinity(0))[:request["cores"]]
    if len(cores) < request["cores"]:
      raise InputError(f"--cores={request['cores']}: this process may use {len(cores)}.")
    self._process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker", json.dumps(request)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": str(len(cores))},
        preexec_fn=lambda: os.sched_setaffinity(0, cores))

  def answer(self) -> dict:
    """The next line of the worker.

    Raises:
      InputError: what the worker could not do.
      RuntimeError: the worker ended; its own error is on stderr.
    """
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f"The worker of {self._side} ended with code {self._process.wait()}.")
    content = json.loads(line)
    if "error" in content:
      raise InputError(content["error"])
    return content

  def turn(self) -> dict[str, float]:
    self._process.stdin.write("run\n")
    self._process.stdin.flush()
    return self.answer()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._process.kill()
    self._process.wait()
    self._process.stdin.close()
    self._process.stdout.close()


def compare(case: str, size: str, a: str, b: str, *, rounds: int, cores: int,
            reference: str | None = None) -> Comparison:
  """Builds both sides one after the other, then lets them take turns.

  Args:
    case, size: of `cases.SIZES`.
    a, b: sides, of `worker.SIDES`.
    rounds: runs of each.
    cores: of each; both sides get the same ones.
    reference: checkout of the released code, where a side is that.

  Raises:
    InputError: what a side cannot do.
  """
  request = dict(case=case, size=size, cores=cores, reference=reference)
  with contextlib.ExitStack() as stack:
    workers, ready = [], []
    for side in (a, b):
      workers.append(stack.enter_context(Worker(side=side, **request)))
      ready.append(workers[-1].answer())
    results = [[worker.turn() for worker in workers] for _ in range(rounds)]
  sides = [
      Side(name, ready[i]["gflop"], *([turn[i][kind] for turn in results]
                                      for kind in ("cpu", "wall")))
      for i, name in enumerate((a, b))]
  return Comparison(case, *sides)
