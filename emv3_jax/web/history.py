"""The history of the page: the clips in its folder, those of batches too, and the report that they share."""

import contextlib
import pathlib
from typing import Any

from emv3_jax.io import atomic
from emv3_jax.jobs import report as report_lib
from emv3_jax.jobs.report import REPORT, Entry, Outcome
from emv3_jax.web import reports
from emv3_jax.web.folder import Folder, is_plain
from emv3_jax.web.queue import Jobs, preview_path
from emv3_jax.web.uploads import Uploads

_SUFFIXES = (".mp4", ".json", ".latents.npy", ".curves.json", ".curves.png", ".partial.mp4")


class History:
  """Clips that are there, and jobs that ended without one.

  Args:
    folder: of the page.
    jobs: of the page.
    uploads: of the page.

  Raises:
    InputError: report.jsonl is a file of another kind.
  """

  def __init__(self, folder: Folder, jobs: Jobs, uploads: Uploads):
    self._folder, self._jobs, self._uploads = folder, jobs, uploads
    self._read: dict[str, tuple[int, dict]] = {}
    self.entries()

  def entries(self) -> dict[str, Entry]:
    """Reads the report, by name of the output."""
    path = self._folder.path / REPORT
    return {entry.name: entry for entry in report_lib.read_report(path)} if path.exists() else {}

  def record(self, entry: Entry) -> None:
    """Adds the entry of a job to the report, or replaces it there."""
    entries = self.entries()
    before = entries.get(entry.name)
    if entry.status == "skipped" and before is not None:
      return
    self._write({**entries, entry.name: entry})

  def _write(self, entries: dict[str, Entry]) -> None:
    statuses = [entry.status for entry in entries.values()]
    counts = {status: statuses.count(status) for status in report_lib.STATUSES}
    seconds = sum(entry.total_seconds for entry in entries.values())
    report_lib.write_report(self._folder.path / REPORT, entries.values(), Outcome(**counts, total_seconds=seconds))

  def list(self) -> list[dict[str, Any]]:
    """Returns what the page shows, the newest first."""
    entries, shown = self.entries(), []
    for path in self._folder.path.glob("[!.]*.json"):
      name = path.stem
      if not is_plain(name) or not (clip := self._clip(path)):
        continue
      shown.append({"name": name, "status": "done", **clip, **self._of_job(name), **_times(entries.get(name))})
    there = {clip["name"] for clip in shown}
    for job in self._jobs:
      if job.name not in there and job.state in report_lib.STATUSES:
        shown.append({"name": job.name, "status": job.state, "reason": job.reason, "request": job.request,
                      **self._of_job(job.name), **_times(entries.get(job.name)), "video": False})
    for entry in entries.values():  # of batches
      if entry.name not in there and self._jobs.get(entry.name) is None and is_plain(entry.name):
        shown.append({"name": entry.name, "status": entry.status, "reason": entry.reason, "request": {},
                      **_times(entry), "video": False})
    return sorted(shown, key=lambda clip: (clip.get("finished", ""), clip["name"]), reverse=True)

  def _of_job(self, name: str) -> dict[str, Any]:
    job = self._jobs.get(name)
    if job is None:
      return {}
    there = [upload for upload in map(self._described, job.uploads) if upload is not None]
    return {"settings": job.settings, "checkpoint": job.checkpoint, "uploads": there, "request": job.request,
            "labels": job.labels}

  def _described(self, upload: str) -> dict[str, Any] | None:
    with contextlib.suppress(KeyError):
      return self._uploads.get(upload)
    return None

  def _clip(self, path: pathlib.Path) -> dict[str, Any] | None:
    """Returns what a report says of its clip; None for other files. A file is read again when it has changed."""
    try:
      changed = path.stat().st_mtime_ns
    except OSError:
      return None
    known = self._read.get(path.name)
    if known is None or known[0] != changed:
      self._read[path.name] = known = changed, reports.summary(path)
    return known[1] if known[1] and path.with_suffix(".mp4").is_file() else None

  def file(self, name: str, suffix: str) -> pathlib.Path | None:
    """Returns a file of a clip; None if there is none."""
    path = self._folder.path / f"{name}{suffix}"
    return path if is_plain(name) and suffix in _SUFFIXES and self._clip(
        self._folder.path / f"{name}.json") and path.is_file() else None

  def delete(self, name: str) -> bool:
    """Deletes a clip with all that was kept for it; returns whether there was any.

    That is the clip's own files, the job, its entry in the report, uploads and embeddings of prompts that no other
    job uses, and its preview.

    Raises:
      InputError: a file cannot be removed.
    """
    job, entries = self._jobs.get(name), self.entries()
    is_clip = is_plain(name) and self._clip(self._folder.path / f"{name}.json") is not None
    if job is None and not is_clip and name not in entries:
      return False
    if is_clip or job is not None:
      for suffix in _SUFFIXES:
        atomic.remove(self._folder.path / f"{name}{suffix}")
      for claim in self._folder.path.glob(f".{name}.*.claim"):
        claim.unlink(missing_ok=True)
    if job is not None:
      preview_path(self._folder.path, job).unlink(missing_ok=True)
      self._jobs.remove(job)
      for upload in set(job.uploads) - {used for other in self._jobs for used in other.uploads}:
        self._uploads.delete(upload)
      for prompt in set(job.prompts) - {used for other in self._jobs for used in other.prompts}:
        (self._folder.path / "prompts" / pathlib.PurePath(prompt).name).unlink(missing_ok=True)
    self._read.pop(f"{name}.json", None)
    if entries.pop(name, None) is not None:
      self._write(entries)
    return True


def _times(entry: Entry | None) -> dict[str, Any]:
  return {} if entry is None else {"finished": entry.finished, "total_seconds": entry.total_seconds,
                                   "line": entry.line}
