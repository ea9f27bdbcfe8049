"""What the page can do, apart from HTTP: its state, and checked requests for clips."""

import asyncio
import dataclasses
import json
import pathlib
import re
from typing import Any

from emv3_jax.errors import InputError
from emv3_jax.io import atomic
from emv3_jax.io.manifests import is_text
from emv3_jax.jobs.report import now
from emv3_jax.limits import SEED
from emv3_jax.web import puppets, uploads
from emv3_jax.web.folder import Folder
from emv3_jax.web.history import History
from emv3_jax.web.queue import MAX_WAITING, QUEUED, RUNNING, Jobs, PageJob, preview_path
from emv3_jax.web.sampling_process import SamplingProcess
from emv3_jax.web.uploads import Uploads

FACE_SECONDS = 90.0
MAX_PROMPT = 4000  # characters
_INPUTS = {"voice": "audio", "portrait": "image", "last": "last_image", "video": "video"}  # kind -> field of a request
_BOX = re.compile(r"auto|none|\d{1,5}(,\d{1,5}){3}")
_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)?")
_SHOWN = ("line", "name", "state", "reason", "step", "steps", "preview", "note", "labels", "request")


class Page:
  """The page of one folder.

  Args:
    folder: its folder.
    arguments: of the process that samples.
  """

  def __init__(self, folder: Folder, arguments: list[str]):
    self.folder, self.uploads, self.jobs = folder, Uploads(folder), Jobs(folder)
    self.uploads.clear({upload for job in self.jobs for upload in job.uploads})
    self.history = History(folder, self.jobs, self.uploads)
    self.sampling = SamplingProcess(arguments, folder, self.jobs, self.history, self._change)
    self._revision, self._status, self._used = 0, b"", 0
    self._finished, self._history_revision = -1, 0
    self._face = asyncio.Lock()
    self._task: asyncio.Task | None = None
    self.sampling.wake()

  def start(self) -> None:
    """Starts the process that samples."""
    self._task = asyncio.create_task(self.sampling.run())

  async def stop(self) -> None:
    """Ends the process that samples; its job is queued for the next start."""
    if self._task is not None:
      self._task.cancel()
      await asyncio.gather(self._task, return_exceptions=True)

  def _change(self) -> None:
    self._revision, self._status = self._revision + 1, b""

  def status(self) -> bytes:
    """Returns what the page asks for every second, as JSON; made anew only when something has changed."""
    if not self._status:
      shown = [job for job in self.jobs if job.state in (QUEUED, RUNNING)]
      ended = hash(tuple((job.name, job.state) for job in self.jobs if job.state not in (QUEUED, RUNNING)))
      if ended != self._finished:
        self._finished, self._used = ended, self.folder.used()
        self._history_revision += 1
      self._status = json.dumps({
          "revision": self._revision, "history": self._history_revision, "consent": self.has_consent(),
          "sampler": {"state": self.sampling.state, "message": self.sampling.message or self.sampling.unsaved,
                      "form": self.sampling.form is not None},
          "used": self._used, "quota": self.folder.quota,
          "queue": [{name: getattr(job, name) for name in _SHOWN} for job in shown]}).encode()
    return self._status

  @property
  def _consent(self) -> pathlib.Path:
    return self.folder.path / "consent.json"

  def has_consent(self) -> bool:
    """Returns whether the person who uses the page has said that those who are shown and heard agree."""
    return self._consent.is_file()

  def add(self, asked: dict[str, Any]) -> PageJob:
    """Queues a clip.

    Args:
      asked: `task`, `prompt`, `uploads` (ids by kind), and of these what is wanted: `negative_prompt`, `seed`,
        `face_box`, `seconds`, `checkpoint`, `settings`, `save_latents`, `consent`.

    Raises:
      InputError: a field is missing, wrong or unknown; there is no consent, no room, or the queue is full.
    """
    fields = dataclasses.asdict(_Asked.of(asked))
    if not self.has_consent():
      if asked.get("consent") is not True:
        raise InputError("Say first that those whose picture and voice you use agree to it.")
      atomic.write_json(self._consent, {"time": now()})
    if len(self.jobs.waiting()) >= MAX_WAITING:
      raise InputError(f"{MAX_WAITING} clips are queued; wait for some of them.")
    self.folder.check_space()
    self._check_task(fields)
    described = {kind: self._upload(kind, name) for kind, name in fields["uploads"].items()}
    request = {_INPUTS[kind]: f"uploads/{upload['file']}" for kind, upload in described.items()}
    if "audio" not in request:
      raise InputError("A clip needs a voice; drop a sound file or record one.")
    request |= {name: fields[name] for name in ("task", "prompt", "negative_prompt", "seed", "face_box", "seconds")
                if fields[name] is not None}
    job = self.jobs.add({
        "request": request, "settings": fields["settings"], "checkpoint": fields["checkpoint"],
        "uploads": [upload["id"] for upload in described.values()], "save_latents": fields["save_latents"],
        "labels": {_INPUTS[kind]: upload["label"] for kind, upload in described.items()}},
        {entry.line for entry in self.history.entries().values()})
    self.sampling.wake()
    self._change()
    return job

  def _check_task(self, fields: dict[str, Any]) -> None:
    form = self.sampling.form
    if form is None:
      raise InputError("The model is still being opened; try again in a moment.")
    tasks = {task["name"]: task for task in form["tasks"]}
    if fields["task"] not in tasks:
      raise InputError(f"There is no task {fields['task']!r}; there are {', '.join(tasks)}.")
    for kind, name in _INPUTS.items():
      needed = name == "audio" or name in tasks[fields["task"]]["inputs"]
      if needed and kind not in fields["uploads"]:
        raise InputError(f"Task {fields['task']} needs {name.replace('_', ' ')}.")
      if not needed:
        fields["uploads"].pop(kind, None)
    known = {setting["name"] for setting in form["settings"]}
    for name in fields["settings"]:
      if name not in known:
        raise InputError(f"There is no setting {name[:60]!r}.")
    if not tasks[fields["task"]]["face"]:
      fields["face_box"] = None

  def _upload(self, kind: str, name: str) -> dict[str, Any]:
    try:
      found = self.uploads.get(name)
    except KeyError:
      raise InputError(f"The {kind} is not there any more; choose it again.") from None
    if kind not in (found["kind"], "last" if found["kind"] == "portrait" else ""):
      raise InputError(f"The {kind} is a {found['kind']}.")
    return found

  def cancel(self, name: str) -> bool:
    """Ends a job that is queued or is being made; returns whether there is one."""
    job = self.jobs.get(name)
    if job is None or job.state not in (QUEUED, RUNNING):
      return False
    self.sampling.cancel(job)
    return True

  def retry(self, name: str) -> bool:
    """Queues a job again that ended without a clip; returns whether there is one."""
    job = self.jobs.get(name)
    if job is None or job.state in (QUEUED, RUNNING, "done"):
      return False
    job.state, job.reason, job.lost, job.note, job.step, job.steps, job.preview = QUEUED, "", 0, "", 0, 0, 0
    self.jobs.save(job)
    self.sampling.wake()
    self._change()
    return True

  def delete(self, name: str) -> bool:
    """Deletes a clip and all that was kept for it; returns whether there was any.

    Raises:
      InputError: it is being made, or a file cannot be removed.
    """
    job = self.jobs.get(name)
    if job is not None and job.state in (QUEUED, RUNNING):
      raise InputError("The clip is queued or being made; cancel it first.")
    found = self.history.delete(name)
    self._finished = -1
    self._change()
    return found

  def preview(self, name: str) -> pathlib.Path | None:
    """Returns the preview of a job that is being made; None if there is none."""
    job = self.jobs.get(name)
    path = None if job is None else preview_path(self.folder.path, job)
    return path if path is not None and path.is_file() else None

  async def find_face(self, upload: str) -> str:
    """Finds the face of a portrait; returns `y1,y2,x1,x2`.

    Raises:
      KeyError: there is no such upload.
      InputError: there is no face.
    """
    file = self.uploads.file(upload)
    async with self._face:
      found = await uploads.run_child("emv3_jax.web.face", str(file), seconds=FACE_SECONDS)
    return found["face_box"]

  async def puppet(self, number: int) -> dict[str, Any]:
    """Makes uploads of one of the puppets that can be tried; returns them with prompt and face box."""
    found = await asyncio.to_thread(puppets.example, number)
    sent = {}
    for kind, content in (("portrait", found.portrait), ("voice", found.voice)):
      async def body(content=content):
        yield content

      sent[kind] = await self.uploads.receive(kind, f"puppet {number + 1}", len(content), body())
    return {"uploads": sent, "prompt": found.prompt, "face_box": found.face_box}


@dataclasses.dataclass(frozen=True)
class _Asked:
  task: str
  prompt: str
  uploads: dict[str, str]
  negative_prompt: str | None
  seed: int | None
  face_box: str | None
  seconds: float | None
  checkpoint: str
  settings: dict[str, str]
  save_latents: bool

  @classmethod
  def of(cls, asked: Any) -> "_Asked":
    """Checks types and forms of what a browser sent."""
    if not isinstance(asked, dict):
      raise InputError("The request is no JSON object.")
    unknown = asked.keys() - {field.name for field in dataclasses.fields(cls)} - {"consent"}
    if unknown:
      raise InputError(f"The request has an unknown field {min(map(str, unknown))[:60]!r}.")
    prompt, negative = _text(asked, "prompt") or "", _text(asked, "negative_prompt")
    box = _text(asked, "face_box") or None
    if box is not None and not _BOX.fullmatch(box):
      raise InputError("The face box has to be y1,y2,x1,x2 in pixels, auto or none.")
    seed = asked.get("seed")
    if seed is not None and (type(seed) is not int or not SEED[0] <= seed <= SEED[1]):
      raise InputError(f"The seed has to be a whole number from {SEED[0]} to {SEED[1]}.")
    seconds = asked.get("seconds")
    if seconds is not None and (type(seconds) not in (int, float) or not 0 < seconds < 1e6):
      raise InputError("The length has to be a number of seconds above 0.")
    checkpoint = _text(asked, "checkpoint") or ""
    if checkpoint and not (pathlib.Path(checkpoint) / "model.json").is_file():
      raise InputError(f"{checkpoint[:200]} is no model folder: it has no model.json.")
    return cls(_text(asked, "task") or "i2v", prompt, _texts(asked, "uploads", lambda name: name in _INPUTS), negative,
               seed, box, seconds, checkpoint, _texts(asked, "settings", lambda name: bool(_SETTING.fullmatch(name))),
               asked.get("save_latents") is True)


def _text(asked: dict, name: str) -> str | None:
  value = asked.get(name)
  if value is not None and (not isinstance(value, str) or len(value) > MAX_PROMPT or not is_text(value)):
    raise InputError(f"{name} is no text of at most {MAX_PROMPT} characters.")
  return value


def _texts(asked: dict, name: str, is_known) -> dict[str, str]:
  values = asked.get(name) or {}
  if not isinstance(values, dict) or len(values) > 100:
    raise InputError(f"{name} is no JSON object.")
  for key in values:
    if not is_known(key):
      raise InputError(f"{name} has an unknown field {str(key)[:60]!r}.")
    if _text(values, key) is None:
      raise InputError(f"{name}.{key} is no text.")
  return dict(values)
