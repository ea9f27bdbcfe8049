"""Runs on a Ray cluster whose workers, node and driver are killed; figures of what was lost and made again."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
# Processes on the machine of a test have no accelerator, and few cores.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclasses.dataclass
class Figures:
  """What happened to a run."""

  kills: int = 0
  driver_kills: int = 0
  nodes_removed: int = 0
  seconds: float = 0.0


class Nodes:
  """A cluster of two nodes in a process of its own; a busy machine may need several attempts."""

  def __init__(self, attempts: int = 3):
    self.address = ""
    while not self.address and attempts:
      attempts -= 1
      self.process = subprocess.Popen([sys.executable, "-m", "tests.jobs.ray_nodes"], cwd=ROOT, text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
      self.address = self.process.stdout.readline().strip()
    assert self.address, "the cluster did not start"

  def remove(self) -> None:
    """Removes the second node, with the workers on it."""
    print("remove", file=self.process.stdin, flush=True)


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
  """Starts a cluster of two nodes; it ends with the block."""
  found = Nodes()
  try:
    yield found
  finally:
    found.process.stdin.close()
    try:
      found.process.wait(timeout=60)
    except subprocess.TimeoutExpired:
      found.process.kill()


def start(given: dict, **environment: str) -> subprocess.Popen:
  """Starts a run with the stand-in, see `tests.jobs.ray_run`."""
  return command(["-m", "tests.jobs.ray_run", json.dumps(given)], **environment)


def command(arguments: list[str], **environment: str) -> subprocess.Popen:
  """Starts Python in the checkout; its output goes to one pipe."""
  return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, text=True, env={**os.environ, **ENVIRONMENT, **environment},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def workers(folder: pathlib.Path) -> list[int]:
  """Process ids of those that make a job right now, by their claims."""
  found = []
  for path in folder.glob(".*.claim"):
    with contextlib.suppress(OSError, ValueError):
      pid = json.loads(path.read_text())["pid"]
      if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
        found.append(pid)
  return sorted(found)


def torture(begin: Callable[[], subprocess.Popen], folder: pathlib.Path, *, seed: int, every: tuple[float, float],
            kills: int, driver_kills: int, progress: Callable[[], float], remove_node: Callable[[], None] | None = None,
            timeout: float) -> tuple[Figures, str]:
  """Kills workers of a run at random, and its driver and a node when it is at certain shares of its work.

  Args:
    begin: starts the run, or starts it again after its driver was killed.
    folder: the output folder.
    seed: of the random times.
    every: least and most seconds between two kills.
    kills: workers that are killed.
    driver_kills: how often the driver is killed.
    progress: share of the work that is done.
    remove_node: removes a node; it is called once, at half of the work.
    timeout: in seconds.

  Returns:
    Figures, and what the last run printed.
  """
  rng, figures, began = random.Random(seed), Figures(), time.monotonic()
  run = begin()
  due = time.monotonic() + rng.uniform(*every)
  while run.poll() is None and time.monotonic() - began < timeout:
    time.sleep(0.05)
    share = progress()
    if figures.driver_kills < driver_kills and share > (figures.driver_kills + 1) / (driver_kills + 2):
      run.kill()
      run.communicate()
      figures.driver_kills += 1
      run = begin()
    elif remove_node is not None and not figures.nodes_removed and share > 0.5:
      remove_node()
      figures.nodes_removed += 1
    elif figures.kills < kills and time.monotonic() > due:
      due = time.monotonic() + rng.uniform(*every)
      found = workers(folder)
      with contextlib.suppress(ProcessLookupError):
        if found:
          os.kill(rng.choice(found), signal.SIGKILL)
          figures.kills += 1
  figures.seconds = round(time.monotonic() - began, 1)
  if run.poll() is None:
    run.kill()
  return figures, run.communicate()[0]
