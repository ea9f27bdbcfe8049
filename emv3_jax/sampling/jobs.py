"""Many clips from a manifest: one JSON object a line, done jobs are skipped, failures stay alone."""

from collections.abc import Callable
import dataclasses
import json
import pathlib
import re

from absl import logging

from emv3_jax import config as config_lib
from emv3_jax import processes
from emv3_jax.errors import InputError
from emv3_jax.io import digests
from emv3_jax.sampling import output
from emv3_jax.sampling.clip import sample
from emv3_jax.sampling.fingerprint import fingerprint
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.settings import Request

_PATHS = ("audio", "image", "last_image", "video")


@dataclasses.dataclass(frozen=True)
class Job:
  """One line of a manifest.

  Attributes:
    line: line number, from 1.
    name: output name without ending; the line's `name`, else line number and audio's name.
    request: what to make; None when the line cannot be used.
    fault: why not.
  """

  line: int
  name: str
  request: Request | None
  fault: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
  done: int
  skipped: int
  failed: int


def read_manifest(path: str | pathlib.Path) -> list[Job]:
  """Reads a manifest. Relative paths in it are relative to the manifest's folder.

  A line that is not a usable job is kept with its fault, so that the other lines still run.

  Raises:
    InputError: the manifest cannot be read, is empty, or names one output twice.
  """
  path = pathlib.Path(path)
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"Manifest {path} cannot be read: {error}.") from error
  jobs = [_read_line(number, line, path.parent) for number, line in enumerate(lines, 1)
          if line.strip()]
  if not jobs:
    raise InputError(f"Manifest {path} has no jobs; write one JSON object a line.")
  lines_of = {}
  for job in jobs:
    if job.name in lines_of:
      raise InputError(f"Manifest {path}: lines {lines_of[job.name]} and {job.line} both make "
                       f"{job.name!r}; give each a name of its own.")
    lines_of[job.name] = job.line
  return jobs


def _read_line(number: int, line: str, folder: pathlib.Path) -> Job:
  name = f"{number:04d}"
  try:
    values = json.loads(line)
    if not isinstance(values, dict):
      raise InputError(f"is {type(values).__name__}, expected a JSON object")
    name = str(values.pop("name", f"{number:04d}_{pathlib.Path(str(values.get('audio'))).stem}"))
    if not re.fullmatch(r"[\w.-]+", name):
      raise InputError(f"name {name!r} is not a plain file name")
    for key in _PATHS:
      if isinstance(values.get(key), str):
        values[key] = str(folder / values[key])
    if str(values.get("face_box", "")).endswith(".npy"):
      values["face_box"] = str(folder / values["face_box"])
    return Job(number, name, config_lib.build(Request, values, f"line {number}"))
  except json.JSONDecodeError as error:
    return Job(number, name, None, f"not JSON: {error}")
  except InputError as error:
    return Job(number, name, None, str(error))


def verify_weights(model: Model) -> None:
  """Compares the weights of the model's folder with their digests; untrained ones have none.

  Raises:
    InputError: they are not those that were written, or are not there to the end.
  """
  if model.folder is not None:
    processes.together(lambda: digests.verify_digests(model.folder))


def run_jobs(model: Model, jobs: list[Job], folder: str | pathlib.Path, *,
             save_latents: bool = False, verify: bool = False,
             progress: Callable | None = None) -> Outcome:
  """Makes every job's clip in `folder`, in order; skips those that are done already.

  A job is done when its video and its JSON are there, the video has the size that the JSON says, and the
  JSON's fingerprint is the job's; with `save_latents` its latents likewise. A job that fails through
  its inputs is reported and the next one runs.

  Args:
    save_latents: write the latents too, as .latents.npy.
    verify: before the work compare the weights with their digests, and count a job as done only
      when its files are to the last byte what was written.
    progress: wraps the iterator of solver steps, e.g. a `tqdm`.

  Raises:
    InputError: the folder cannot be written to, or the weights are not those that were written.
  """
  folder = pathlib.Path(folder)
  output.make_folder(folder)
  if verify:
    verify_weights(model)
  done = skipped = failed = 0
  for job in jobs:
    try:
      if job.request is None:
        raise InputError(job.fault)
      video = folder / f"{job.name}.mp4"
      if _is_done(model, job, video, save_latents, verify):
        logging.info("Line %d (%s) is done already.", job.line, job.name)
        skipped += 1
        continue
      clip = sample(model, job.request, progress=progress)
      output.write(clip, video, save_latents=save_latents)
    except InputError as error:
      logging.error("Line %d (%s) failed: %s", job.line, job.name, error)
      failed += 1
      continue
    logging.info("Line %d (%s) done.", job.line, job.name)
    done += 1
  return Outcome(done, skipped, failed)


def _is_done(model: Model, job: Job, video: pathlib.Path, save_latents: bool,
             verify: bool) -> bool:
  """Process 0 looks, all know; tells why a clip that is there has to be made again."""
  def look() -> str | None:
    return output.reason_to_make(
        video, lambda: fingerprint(model, job.request), save_latents=save_latents,
        verify=verify) if processes.is_first() else None

  reason = processes.together(look)
  if reason is not None and video.exists():
    logging.info("Line %d (%s) is made again: %s.", job.line, job.name, reason)
  return not processes.anywhere(reason is not None)
