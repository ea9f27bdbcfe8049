"""The server's side of the process that samples: starts it, gives it jobs, starts it again when it is lost."""

import asyncio
from collections.abc import Callable, Sequence
import contextlib
import json
import os
import signal
import sys
from typing import Any

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.jobs.report import Entry, now
from emv3_jax.web.folder import Folder
from emv3_jax.web.history import History
from emv3_jax.web.queue import QUEUED, RUNNING, Jobs, PageJob

MAX_LOST = 2  # samplers that one job may cost
CANCEL_SECONDS = 15.0  # a clip that was cancelled has so long to end; then its process is ended
END_SECONDS = 15.0  # likewise for a process that was asked to end
PAUSES = (0.5, 2.0, 5.0, 15.0, 60.0)  # before a process that ended is started again, by how often it did in a row
LOOK_AGAIN = 5.0  # seconds after which a job that another run makes is looked at again


def command(config: str, checkpoint: str, folder: Folder, previews: bool = True) -> list[str]:
  """Returns the command of the process."""
  return [sys.executable, "-m", "emv3_jax.web.sampler", f"--config={config}", f"--checkpoint={checkpoint}",
          f"--folder={folder.path}", *([] if previews else ["--no_previews"])]


class SamplingProcess:
  """Makes the jobs of the page, one after the other, in a process that may end at any time.

  Args:
    arguments: of the process.
    folder, jobs, history: of the page.
    changed: is called whenever something that the page shows has changed.

  Attributes:
    state: `starting`, `ready`, `busy`, or `refused` where its config or model cannot be used.
    message: what is wrong with it; empty if nothing is.
    unsaved: why the last change of a job could not be written; empty if it could.
    form: what it said of its model and settings; None before it is ready for the first time.
  """

  def __init__(self, arguments: Sequence[str], folder: Folder, jobs: Jobs, history: History,
               changed: Callable[[], None]):
    self._arguments, self._folder, self._jobs, self._history = list(arguments), folder, jobs, history
    self._changed = changed
    self.state, self.message, self.unsaved, self.form = "starting", "", "", None
    self.current: PageJob | None = None
    self._process: asyncio.subprocess.Process | None = None
    self._failures, self._wake = 0, asyncio.Event()
    self._cancelling: asyncio.Task | None = None
    self._closing = False

  async def run(self) -> None:
    """Runs the process, again and again, until the task is cancelled or the process refuses its arguments."""
    try:
      while self.state != "refused":
        self.state = "starting"
        self._changed()
        code = await self._run_once()
        if self._closing or self.state == "refused":
          break
        self._lost(code)
        pause = PAUSES[min(self._failures, len(PAUSES)) - 1]
        await asyncio.sleep(pause)
    finally:
      await self._end()

  async def _run_once(self) -> int:
    self._process = process = await asyncio.create_subprocess_exec(
        *self._arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
        env={**os.environ, "EMV3_PAGE": "1"}, start_new_session=True)
    feeding = asyncio.create_task(self._feed())
    try:
      assert process.stdout is not None
      async for line in process.stdout:
        try:
          event = json.loads(line)
        except ValueError:
          logging.warning("The sampler said something that is no event.")
          continue
        self._handle(event)
      return await process.wait()
    finally:
      feeding.cancel()

  async def _feed(self) -> None:
    """Gives the process a job whenever it has none."""
    while True:
      await self._wake.wait()
      self._wake.clear()
      if self.state != "ready" or self.current is not None:
        continue
      job = next((job for job in self._jobs.waiting() if not job.note), None)
      if job is None:
        continue
      self.current, self.state = job, "busy"
      job.state, job.step, job.steps, job.preview = RUNNING, 0, 0, 0
      self._save(job)
      self._send({"make": {"line": job.line, "name": job.name, "request": job.request, "settings": job.settings,
                           "checkpoint": job.checkpoint, "save_latents": job.save_latents}})
      self._changed()

  def wake(self) -> None:
    """Tells that there may be a job to make."""
    self._wake.set()

  def cancel(self, job: PageJob) -> None:
    """Ends a job that is queued or is being made; one that does not end in time ends with its process."""
    if job.state == QUEUED:
      self._finish(job, Entry(job.line, job.name, "stopped", "cancelled", finished=now()))
    elif job is self.current:
      job.note = "is being cancelled"
      self._send({"cancel": job.name})
      self._cancelling = asyncio.create_task(self._insist(job))
    self._changed()

  async def _insist(self, job: PageJob) -> None:
    await asyncio.sleep(CANCEL_SECONDS)
    if self.current is job and self._process is not None:
      job.note = "was cancelled"
      await self._kill(self._process)

  def _handle(self, event: dict[str, Any]) -> None:
    kind, job = event.get("event"), self.current
    if kind == "ready":
      self.state, self.message, self.form = "ready", "", event["form"]
      self.wake()
    elif kind == "refused":
      self.state, self.message = "refused", event["reason"]
    elif job is None or event.get("name") != job.name:
      return
    elif kind == "step":
      job.step, job.steps = event["step"], event["steps"]
    elif kind == "preview":
      job.preview += 1
    elif kind == "elsewhere":
      job.state, job.note, self.current, self.state = QUEUED, f"is made by {event['owner'] or 'another run'}", None, "ready"
      self._save(job)
      asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look_again, job)
      self.wake()
    elif kind == "end":
      job.prompts, self._failures = event["prompts"], 0
      self.current, self.state = None, "ready"
      self._finish(job, Entry(**event["entry"]))
      self.wake()
    self._changed()

  def _look_again(self, job: PageJob) -> None:
    job.note = ""
    self.wake()
    self._changed()

  def _finish(self, job: PageJob, entry: Entry) -> None:
    job.state = "done" if entry.status == "skipped" else entry.status
    job.reason, job.note = entry.reason, ""
    if self._cancelling is not None and job is not self.current:
      self._cancelling.cancel()
      self._cancelling = None
    self._save(job, entry)

  def _save(self, job: PageJob, entry: Entry | None = None) -> None:
    """Writes a job, and the entry of one that ended; a full disk is told, and ends neither page nor sampler."""
    try:
      self._jobs.save(job)
      if entry is not None:
        self._history.record(entry)
      self.unsaved = ""
    except (InputError, OSError) as error:
      self.unsaved = str(error)
      logging.warning("%s", error)

  def _lost(self, code: int) -> None:
    """Decides what becomes of the job of a process that ended."""
    self._failures += 1
    how = f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with exit code {code}"
    self.message = f"The sampler ended {how} and is started again."
    logging.warning("%s", self.message)
    job, self.current = self.current, None
    if job is None:
      return
    if job.note:
      self._finish(job, Entry(job.line, job.name, "stopped", "cancelled", finished=now()))
      return
    job.lost += 1
    if job.lost >= MAX_LOST:
      memory = " Its memory may not have been enough; --plan says what a clip takes." if code == -signal.SIGKILL else ""
      self._finish(job, Entry(job.line, job.name, "lost", f"The sampler ended {how} while the clip was made, "
                              f"{job.lost} times.{memory}", lost=job.lost, finished=now()))
      return
    job.state, job.step, job.steps, job.preview = QUEUED, 0, 0, 0
    self._save(job)

  def _send(self, message: dict[str, Any]) -> None:
    process = self._process
    if process is None or process.stdin is None or process.returncode is not None:
      return
    with contextlib.suppress(ConnectionError, RuntimeError):
      process.stdin.write(json.dumps(message).encode() + b"\n")

  async def _end(self) -> None:
    """Ends the process; the job that it makes is queued for the next start."""
    self._closing = True
    if self._process is not None and self._process.returncode is None:
      await self._kill(self._process)

  async def _kill(self, process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
      process.terminate()
      try:
        await asyncio.wait_for(process.wait(), END_SECONDS)
      except TimeoutError:
        process.kill()
        await process.wait()
