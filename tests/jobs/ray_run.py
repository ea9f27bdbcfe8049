"""A run on a Ray cluster with a maker that stands in for sampling, as a process that can be killed.

  python -m tests.jobs.ray_run '{"folder": ..., "jobs": 20, "address": "127.0.0.1:6379"}'

Prints the outcome as JSON; exits as the command lines do.
"""

import dataclasses
import json
import pathlib

import jax

from emv3_jax.jobs import ray_engine
from emv3_jax.jobs.ray_cluster import ClusterConfig
from emv3_jax.jobs.work import Options
from emv3_jax.runtime import command_line, processes
from tests.jobs.stub import Job, Stub, Together, jobs


@dataclasses.dataclass(frozen=True)
class Setup:
  """Opens the stand-in; `unfit` is what a node says that cannot be used."""

  folder: str
  steps: int = 2
  seconds: float = 0.0
  unfit: str = ""

  def fault(self) -> str:
    return self.unfit

  def begin(self) -> None:
    jax.config.update("jax_platforms", "cpu")

  def open(self) -> Stub:
    return (Together if processes.is_distributed() else Stub)(self.folder, self.steps, self.seconds)


def main(arguments) -> int:
  given = json.loads(arguments[0])
  folder = pathlib.Path(given["folder"])
  todo = jobs(given.get("jobs", 0)) + [Job(**fields) for fields in given.get("lines", [])]
  setup = Setup(str(folder), given.get("steps", 2), given.get("seconds", 0.0), given.get("unfit", ""))
  ray_engine.TELL_EVERY = given.get("tell_every", 1.0)
  maker = setup.open()
  if "elsewhere" in given:  # what the nodes write is not seen by the run
    maker, ray_engine.UNSEEN_SECONDS = Stub(given["elsewhere"]), 0.5
  outcome = ray_engine.run(setup, maker, todo, folder, options=Options(**given.get("options", {})),
                           after={int(line): set(lines) for line, lines in given.get("after", {}).items()},
                           cluster=ClusterConfig(given.get("address", ""), given.get("replicas"), processes=given.get("processes", 1))
                           ).outcome()
  print(json.dumps(dataclasses.asdict(outcome)), flush=True)
  return 0 if outcome.complete else 1


if __name__ == "__main__":
  command_line.run(main)
