"""Runs commands in the worker, and ends it where one hangs or falls."""

import dataclasses
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time

from tests.compiler import QUICK_FLAGS

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Ended:
  """How a command ended.

  Attributes:
    code: exit code; None where it was ended from outside or fell (`how` tells).
    how: "", or what became of the process.
    stdout, stderr: what was written.
    message: lines of stderr that are no progress and no warning.
  """

  code: int | None
  how: str
  stdout: str
  stderr: str
  message: tuple[str, ...]


class Shell:
  """The worker of a folder, started when it is first needed and anew after it was ended."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self._process = folder, None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "home").mkdir(exist_ok=True)

  def run(self, command: str, arguments: list[str], folder: pathlib.Path, seconds: float = 120) -> Ended:
    """Runs a command in `folder`; it is ended after so many seconds."""
    process = self._process or self._start()
    process.stdin.write(json.dumps({"command": command, "arguments": arguments, "folder": str(folder)}) + "\n")
    process.stdin.flush()
    ready = select.select([process.stdout], [], [], seconds)[0]
    answer = process.stdout.readline() if ready else ""
    if answer:
      found = json.loads(answer)
      return self._ended(found["code"], "", found["told"])
    how = "fell"
    if not ready:
      how = f"hangs for {seconds:g} seconds"
      process.send_signal(signal.SIGUSR1)  # writes where it is
      time.sleep(0.5)
    self.close()
    return self._ended(None, f"the process {how} ({process.returncode})", ())

  def close(self) -> None:
    if self._process is not None:
      self._process.kill()
      self._process.wait()
      self._process = None

  def _start(self) -> subprocess.Popen:
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "HOME": str(self.folder / "home"), "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT), "XLA_FLAGS": f"--xla_force_host_platform_device_count=1 {QUICK_FLAGS}"}
    self._process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.worker", str(self.folder)], cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return self._process

  def _ended(self, code: int | None, how: str, told) -> Ended:
    out, error = ((self.folder / name).read_text(errors="backslashreplace") for name in ("stdout", "stderr"))
    rest = list(told)
    message = []
    for line in error.splitlines():
      if line in rest:
        rest.remove(line)
      elif not line.startswith("warning: "):  # as conversion begins its own
        message.append(line)
    return Ended(code, how, out, error, tuple(message))
