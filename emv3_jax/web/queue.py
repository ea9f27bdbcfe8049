"""Jobs of the page, one file each, so that they outlive the server; the manifest that batches read is made of them."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.io import atomic
from emv3_jax.web.folder import Folder, is_plain

QUEUED, RUNNING = "queued", "running"
MAX_WAITING = 200  # jobs that are queued
MANIFEST = "manifest.jsonl"


@dataclasses.dataclass
class PageJob:
  """One clip that the page asked for.

  Attributes:
    line, name: as a job of a manifest has them; the name is that of the clip's files.
    request: fields of `sampling.settings.Request`; files relative to the page's folder.
    settings: overrides of the sampling settings by dotted name, as text.
    checkpoint: model folder; empty for the page's own.
    uploads: ids of the uploads that the request names.
    labels: names that the uploads had, by field of the request.
    save_latents: whether latents are written.
    state: `queued`, `running`, or a status of `jobs.report`.
    reason: why it failed.
    lost: how many samplers were lost while they made it.
    prompts: files of embeddings that were kept for it.
    step, steps, preview: of a clip that is being made; the number of previews so far.
    note: what it waits for.
  """

  line: int
  name: str
  request: dict[str, Any]
  settings: dict[str, str] = dataclasses.field(default_factory=dict)
  checkpoint: str = ""
  uploads: list[str] = dataclasses.field(default_factory=list)
  labels: dict[str, str] = dataclasses.field(default_factory=dict)
  save_latents: bool = False
  state: str = QUEUED
  reason: str = ""
  lost: int = 0
  prompts: list[str] = dataclasses.field(default_factory=list)
  step: int = 0
  steps: int = 0
  preview: int = 0
  note: str = ""


class Jobs:
  """All jobs of the page, by name, in the order of their lines.

  Args:
    folder: of the page. A job that was running when the server ended is queued again.
  """

  def __init__(self, folder: Folder):
    self._folder = folder
    self._all: dict[str, PageJob] = {}
    known = {field.name for field in dataclasses.fields(PageJob)}
    for path in sorted((folder.path / "queue").glob("[!.]*.json")):
      try:
        values = json.loads(path.read_text(encoding="utf-8"))
        job = PageJob(**{name: value for name, value in values.items() if name in known})
        assert is_plain(job.name) and job.name == path.stem
      except (OSError, ValueError, TypeError, AttributeError, AssertionError) as error:
        logging.warning("%s is no job of the page (%s) and is left out.", path, error)
        continue
      if job.state == RUNNING:
        job.state = QUEUED
      if job.state == QUEUED:
        job.step, job.steps, job.preview, job.note = 0, 0, 0, ""
      self._all[job.name] = job
    self._all = dict(sorted(self._all.items(), key=lambda item: item[1].line))

  def __iter__(self):
    return iter(list(self._all.values()))

  def get(self, name: str) -> PageJob | None:
    """Returns the job of a name."""
    return self._all.get(name)

  def waiting(self) -> list[PageJob]:
    """Returns the jobs that are queued, the next one first."""
    return [job for job in self._all.values() if job.state == QUEUED]

  def add(self, fields: Mapping[str, Any], taken: set[int]) -> PageJob:
    """Adds a job with the next free line and name.

    Args:
      fields: of `PageJob`, without line and name.
      taken: lines of other runs in the folder.

    Raises:
      InputError: it cannot be written.
    """
    line = max([job.line for job in self._all.values()] + list(taken), default=0) + 1
    while any(self._folder.path.glob(f"{_name(line)}.*")):
      line += 1
    job = PageJob(line=line, name=_name(line), **fields)
    self._all[job.name] = job
    try:
      self.save(job)
    except InputError:
      del self._all[job.name]
      raise
    return job

  def save(self, job: PageJob) -> None:
    """Writes a job, and the manifest anew."""
    atomic.write_json(self._folder.path / "queue" / f"{job.name}.json", dataclasses.asdict(job))
    self._write_manifest()

  def remove(self, job: PageJob) -> None:
    """Removes a job; its clip stays."""
    self._all.pop(job.name, None)
    (self._folder.path / "queue" / f"{job.name}.json").unlink(missing_ok=True)
    self._write_manifest()

  def _write_manifest(self) -> None:
    """Writes the jobs that have the settings and the model of the page, each in its own line."""
    lines = [""] * max([job.line for job in self._all.values()], default=0)
    for job in self._all.values():
      if not job.settings and not job.checkpoint:
        lines[job.line - 1] = json.dumps({"name": job.name, **job.request})
    with atomic.atomic_file(self._folder.path / MANIFEST) as temporary:
      temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def preview_path(folder: pathlib.Path, job: PageJob) -> pathlib.Path:
  """Returns the path of a job's preview, whether it exists or not."""
  return folder / "previews" / f"{job.name}.png"


def _name(line: int) -> str:
  return f"page_{line:05d}"
