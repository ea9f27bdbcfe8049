"""A maker that stands in for sampling: its outputs are bytes that its jobs determine, and it starts at once."""

import dataclasses
import hashlib
import json
import os
import pathlib
import signal
import time

from emv3_jax.errors import InputError
from emv3_jax.io import atomic
from emv3_jax.runtime import processes


@dataclasses.dataclass(frozen=True)
class Job:
  """One output. `fails` is what happens when it is made: `input`, `error`, `once` (an error the first time), `kill`."""

  line: int
  name: str
  seed: int = 0
  fault: str = ""
  fails: str = ""
  reads: str = ""


def jobs(count: int, **fields) -> list[Job]:
  return [Job(line, f"clip{line:03d}", seed=line, **fields) for line in range(1, count + 1)]


class Stub:
  """Writes NAME.bin in `steps` steps, then NAME.json, and a line in makes.log for each beginning.

  Args:
    folder: output folder.
    steps: steps of a job.
    seconds: of one step.
  """

  def __init__(self, folder, steps: int = 2, seconds: float = 0.0):
    self.folder, self.steps, self.seconds = pathlib.Path(folder), steps, seconds

  def check(self, job: Job) -> None:
    if (self.folder / f"{job.name}.bin").is_dir():
      raise InputError(f"{job.name}.bin is a folder.")

  def reason_to_make(self, job: Job) -> str | None:
    try:
      report = json.loads((self.folder / f"{job.name}.json").read_text())
      written = digest((self.folder / f"{job.name}.bin").read_bytes())
    except (OSError, ValueError):
      return ""
    return None if report == {"fingerprint": job.seed, "bytes": written} else "it is of another job"

  def make(self, job: Job, progress) -> None:
    with open(self.folder / "makes.log", "a") as log:
      log.write(f"{job.name}\n")
    begun = (self.folder / "makes.log").read_text().splitlines().count(job.name)
    if job.fails == "input":
      raise InputError("no such voice")
    if job.fails == "error" or job.fails == "once" and begun == 1:
      raise OSError(5, "Input/output error")
    if job.fails == "kill":
      os.kill(os.getpid(), signal.SIGKILL)
    before = (self.folder / f"{job.reads}.bin").read_bytes() if job.reads else b""
    with atomic.atomic_file(self.folder / f"{job.name}.bin") as temporary:
      for step in progress(range(self.steps)):
        time.sleep(self.seconds)
        with open(temporary, "ab") as file:
          file.write(hashlib.sha256(before + f"{job.seed} {step}".encode()).digest())
    content = (self.folder / f"{job.name}.bin").read_bytes()
    atomic.write_json(self.folder / f"{job.name}.json", {"fingerprint": job.seed, "bytes": digest(content)})

  def describe(self, job: Job) -> dict:
    content = (self.folder / f"{job.name}.bin").read_bytes()
    return {"seed": job.seed, "device": "stub", "frames_sha256": digest(content)}


class Together(Stub):
  """Made by several processes, which meet before each step and at the end; the first one writes."""

  def make(self, job: Job, progress) -> None:
    if processes.is_first():
      super().make(job, progress)
    else:
      for _ in progress(range(self.steps)):
        time.sleep(self.seconds)
    assert not processes.any_process(not processes.is_distributed())


def digest(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


def digests(folder) -> dict[str, str]:
  """Digest of each output in a folder, by name."""
  return {path.stem: digest(path.read_bytes()) for path in pathlib.Path(folder).glob("[!.]*.bin")}
