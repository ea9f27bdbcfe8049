"""The process of the page that samples: `python -m emv3_jax.web.sampler`, started and spoken to by the server.

Commands come as JSON lines on stdin, events go as JSON lines to stdout; logs go to stderr. When stdin ends, because
the server is gone, the clip that is being made ends too, and leaves nothing half-written.

Commands: {"make": job of `queue.PageJob`, "name"}, {"cancel": name}.
Events: {"event": "ready", "form", ...}, and of the job "name": {"event": "step", "step", "steps"}, {"event":
"preview"}, {"event": "end", "entry": fields of `report.Entry`, "prompts": files of its kept embeddings}, {"event":
"elsewhere"} where another run is making it.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import queue
import signal
import sys
import threading
from typing import Any, TextIO

from absl import logging
import ml_collections

from emv3_jax import variants
from emv3_jax.errors import InputError, Stopped
from emv3_jax.jobs import manifest
from emv3_jax.jobs.claims import Claims
from emv3_jax.jobs.making import Making
from emv3_jax.jobs.manifest import Job
from emv3_jax.jobs.report import Entry, now
from emv3_jax.jobs.sampler import Sampler
from emv3_jax.runtime import command_line, program_cache
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.clip import open_cache
from emv3_jax.sampling.model import DEFAULT, Model, load
from emv3_jax.sampling.settings import VISUAL_INPUTS, Config, Request
from emv3_jax.web import settings_form
from emv3_jax.web.preview import WatchedSteps

PATIENCE = 10.0  # seconds that a clip has to end in after the server is gone
FILES = ("audio", *VISUAL_INPUTS)  # of a request, relative to the folder
NICENESS = 5  # the page has to answer while a clip is made


class Cancelled(KeyboardInterrupt):
  """The page asked to end this clip; like `Stopped` it passes every `except Exception`."""


@dataclasses.dataclass(frozen=True)
class Choice:
  """What a process was started with: config, model folder of the page, output folder."""

  config: str
  checkpoint: str
  folder: pathlib.Path
  previews: bool


class Models:
  """Opens models; the last one stays open, so that clips of one model and one set of settings share it."""

  def __init__(self, choice: Choice):
    self._choice, self._key, self._model = choice, None, None

  def get(self, checkpoint: str, settings: dict[str, str]) -> Model:
    """Opens a model with settings of the page.

    Args:
      checkpoint: model folder; empty for that of the page.
      settings: by dotted name below `sampling`, as on the command line.

    Raises:
      InputError: folder or settings cannot be used.
    """
    key = checkpoint, tuple(sorted(settings.items()))
    if self._model is None or key != self._key:
      self._model = None  # its memory is needed
      self._model, self._key = self._open(checkpoint, settings), key
    return self._model

  def _open(self, checkpoint: str, settings: dict[str, str]) -> Model:
    values = command_line.read_config(self._choice.config, [], Config)
    if checkpoint:  # another model than the config is of: networks and settings are its own
      values = ml_collections.ConfigDict(dataclasses.asdict(load(checkpoint).config))
    overrides = settings_form.assignments(settings)
    config_lib.override(values, overrides, Config)
    config = config_lib.build(Config, values)
    if config.prompt_cache:  # beside the clips, so that it can be deleted with them
      config = dataclasses.replace(config, prompt_cache=str(self._choice.folder / "prompts"))
    program_cache.use(config.program_cache, limit_mib=config.program_cache_mib,
                      required=config.program_cache != Config.program_cache)
    return load(checkpoint or self._choice.checkpoint, config,
                overridden=command_line.overridden_fields(overrides))


class Worker:
  """Makes the clips that the server asks for, one after the other.

  Args:
    choice: of this process.
    events: where events are written.
  """

  def __init__(self, choice: Choice, events: TextIO):
    self.models, self._folder, self._previews, self._events = Models(choice), choice.folder, choice.previews, events
    self._claims = Claims(self._folder)
    self._commands: queue.Queue[dict] = queue.Queue()
    self._current, self._cancelled = "", set[str]()
    self._lock = threading.Lock()

  def tell(self, event: str, **fields: Any) -> None:
    """Writes an event."""
    with self._lock:
      self._events.write(json.dumps({"event": event, **fields}) + "\n")
      self._events.flush()

  def listen(self, commands: TextIO) -> None:
    """Reads commands until the server is gone, and then ends this process. Runs in a thread of its own."""
    for line in commands:
      command = json.loads(line)
      if "cancel" in command:
        self._cancelled.add(command["cancel"])
      else:
        self._commands.put(command)
    timer = threading.Timer(PATIENCE, lambda: os._exit(command_line.STOPPED))  # a step may take longer
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), signal.SIGTERM)

  def run(self) -> None:
    """Makes clips until the process is stopped."""
    while True:
      command = self._commands.get()
      job = command["make"]
      try:
        self._make(job)
      except Cancelled:
        self._end(job["name"], Entry(job["line"], job["name"], "stopped", "cancelled", finished=now()))
      finally:
        self._cancelled.discard(job["name"])

  def _make(self, fields: dict) -> None:
    name, kept = fields["name"], []
    self._check(name)
    try:
      model = self.models.get(fields["checkpoint"], fields["settings"])
      request = config_lib.build(Request, {
          key: str(self._folder / value) if key in FILES else value for key, value in fields["request"].items()}, name)
      job = manifest.check_jobs([Job(fields["line"], name, request)], self._folder, model.config)[0]
    except InputError as error:
      self._end(name, Entry(fields["line"], name, "failed", str(error), finished=now()))
      return
    if job.request is not None and (cache := open_cache(model)) is not None:
      prompts = [request.prompt, request.negative_prompt or model.config.settings.negative_prompt]
      kept = [cache.file(prompt).name for prompt in prompts]
    making = Making(Sampler(model, self._folder, save_latents=fields["save_latents"]), self._claims)
    preview = self._folder / "previews" / f"{name}.png" if self._previews else None
    entry = making.make(job, lambda steps: WatchedSteps(
        steps, model, lambda step, of: self.tell("step", name=name, step=step, steps=of), lambda: self._check(name),
        preview, lambda: self.tell("preview", name=name)))
    if entry is None:
      self.tell("elsewhere", name=name, owner=self._claims.owner(name))
      return
    if entry.traceback:
      logging.error("%s", entry.traceback)
    self._end(name, entry, kept)

  def _end(self, name: str, entry: Entry, prompts: list[str] | None = None) -> None:
    self.tell("end", name=name, entry=dataclasses.asdict(entry), prompts=prompts or [])

  def _check(self, name: str) -> None:
    if name in self._cancelled:
      raise Cancelled


def describe(models: Models) -> dict[str, Any]:
  """Describes the page's model: its name, settings, tasks, whether it knows puppets only."""
  model = models.get("", {})
  variant = variants.of(model.config.model.transformer.variant)
  return {"model": model.config.name, "puppets": model.config.name == DEFAULT, "seed": model.config.seed,
          "settings": settings_form.fields(model), "tasks": settings_form.task_list(variant)}


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(prog="python -m emv3_jax.web.sampler")
  parser.add_argument("--config", required=True)
  parser.add_argument("--checkpoint", default="")
  parser.add_argument("--folder", required=True, type=pathlib.Path)
  parser.add_argument("--no_previews", action="store_true")
  flags = parser.parse_args(arguments)
  events = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)  # what libraries print is no event
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the server says when to end
  signal.signal(signal.SIGTERM, _stop)
  os.nice(NICENESS)
  command_line.show_own_messages()
  command_line.stay_on_cpu_without_accelerator()
  worker = Worker(Choice(flags.config, flags.checkpoint, flags.folder, not flags.no_previews), events)
  try:
    threading.Thread(target=worker.listen, args=(sys.stdin,), daemon=True).start()
    worker.tell("ready", form=describe(worker.models))
    worker.run()
  except InputError as error:
    worker.tell("refused", reason=str(error))
    sys.exit(2)
  except KeyboardInterrupt:
    sys.exit(command_line.STOPPED)


def _stop(number: int, _) -> None:
  signal.signal(number, signal.SIG_IGN)
  raise Stopped("by the server")


if __name__ == "__main__":
  main(sys.argv[1:])
