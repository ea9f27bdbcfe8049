"""The manifest: one JSON object per line for each clip, checked as a whole before the first is sampled."""

from collections.abc import Sequence
import dataclasses
import functools
import math
import os
import pathlib
import re
import typing
import unicodedata

from emv3_jax.conditioning import face_boxes
from emv3_jax.errors import InputError
from emv3_jax.io import manifests, paths
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling import output, timed_prompts
from emv3_jax.sampling.inputs import check_files, check_request, named_files
from emv3_jax.sampling.settings import VISUAL_INPUTS, Config, Request

_PATHS = ("audio", *VISUAL_INPUTS)
_MAX_STEM_BYTES = 80  # of the part of an output name that comes from the audio file's name


@dataclasses.dataclass(frozen=True)
class Job:
  """One line of a manifest.

  Attributes:
    line: line number, from 1.
    name: output name without suffix; `name` of the line, else line number and name of the audio file.
    request: the clip to sample; None if the line cannot be used.
    fault: error that was found before sampling; empty if there is none.
  """

  line: int
  name: str
  request: Request | None
  fault: str = ""

  @property
  def to_make(self) -> Request:
    """The request of a line that can be used."""
    assert self.request is not None
    return self.request


def read_manifest(path: str | pathlib.Path) -> list[Job]:
  """Reads a manifest. Relative paths in it are relative to the manifest's folder.

  A line that cannot be used becomes a job with a fault, so that the other lines still run; likewise lines
  with the same output name.

  Raises:
    InputError: the manifest cannot be read, or has no lines.
  """
  paths.refuse_address(path, "Manifest")
  path = pathlib.Path(path)
  jobs = [_read_line(line, path.parent) for line in manifests.read_lines(path)]
  if not jobs:
    raise InputError(f"Manifest {path} has no jobs; write one JSON object per line.")
  duplicates = manifests.repeated((job.line, job.name) for job in jobs if not job.fault)
  return [job if job.fault or job.name not in duplicates else dataclasses.replace(
      job, fault=f"lines {_enumerated(duplicates[job.name])} all write {job.name!r}; give each its own name")
          for job in jobs]


def _enumerated(numbers: Sequence[int]) -> str:
  return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def _read_line(line: manifests.Line, folder: pathlib.Path) -> Job:
  name, values = f"{line.number:04d}", dict(line.values)
  if line.fault:
    return Job(line.number, name, None, manifests.shortened(line.fault))
  try:
    name = _name(line.number, manifests.whole(values.pop("name", None)), values.get("audio"))
    request = config_lib.build(Request, _plain(values, folder), f"line {line.number}")
  except (ValueError, ArithmeticError, RecursionError) as error:  # also raised for huge numbers and deep nesting
    return Job(line.number, name, None, manifests.shortened(str(error)))
  return Job(line.number, name, request)


def _name(number: int, given, audio) -> str:
  """Returns the given name, or a name made from line number and audio file."""
  if given is not None:
    if not re.fullmatch(r"[\w.-]+", str(given)):
      raise InputError(f"name {given!r} is not a plain file name; use letters, digits and . _ -")
    return str(given)
  stem = pathlib.PurePath(unicodedata.normalize("NFC", audio)).stem if isinstance(audio, str) else ""
  plain = re.sub(r"[^\w.-]+", "_", stem).encode()[:_MAX_STEM_BYTES].decode(errors="ignore").strip("_.")
  return f"{number:04d}_{plain}" if plain else f"{number:04d}"


def _plain(values: dict, folder: pathlib.Path) -> dict:
  """Converts values for a request: 3.0 to 3, a list to a face box, paths to paths from the current folder."""
  plain, types = {}, _types()
  for key, value in values.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise InputError(f"{key} is {value}, no finite number; write null where there is none")
    if key == "face_box":
      value = manifests.box_text(value)
    if key == "prompts" and isinstance(value, list):
      value = timed_prompts.checked(value)
    if key in ("prompts", "negative_prompts") and isinstance(value, (list, tuple)):
      for text in (text for _, text in value) if key == "prompts" else value:
        if isinstance(text, str) and not manifests.is_text(text):
          raise InputError(f"{key} has {text!a}, which has half a character or a zero byte in it")
    if int in typing.get_args(types.get(key)):
      value = manifests.whole(value)
    if isinstance(value, str):
      if not manifests.is_text(value):
        raise InputError(f"{key} is {value!a}, which has half a character or a zero byte in it")
      if key in _PATHS or key == "face_box" and face_boxes.is_file(value):
        paths.refuse_address(value, key.capitalize())
        value = str(folder / value)
    plain[key] = value
  return plain


@functools.cache
def _types() -> dict:
  return typing.get_type_hints(Request)


def check_jobs(jobs: Sequence[Job], folder: str | pathlib.Path, config: Config) -> list[Job]:
  """Checks the requests, input files and outputs of jobs without decoding a file; adds faults to the jobs.

  An input file may be missing if an earlier line writes it.

  Raises:
    InputError: `folder`, which is created if missing, cannot be written to.
  """
  folder = pathlib.Path(folder)
  output.make_folder(folder)
  readers: dict[tuple[int, int] | None, int] = {None: 0}
  for job in jobs:
    for file in named_files(job.to_make).values() if not job.fault else ():
      readers.setdefault(paths.file_id(file), job.line)
  checked, made = [], set()
  for job in jobs:
    if not job.fault:
      try:
        check_request(job.to_make, config)
        check_files(job.to_make, made)
        _check_written(job, folder, readers)
      except InputError as error:
        job = dataclasses.replace(job, fault=manifests.shortened(str(error)))
    made.add(os.path.realpath(video_path(job, folder)))
    checked.append(job)
  return checked


def _check_written(job: Job, folder: pathlib.Path, readers: dict) -> None:
  video = video_path(job, folder)
  check_output(job, folder)
  for file in output.paths_of(video):
    reader = readers.get(paths.file_id(file))
    if reader and not output.is_report(output.report_path(video)):
      raise InputError(f"Output {file} is read by line {reader} and would be replaced; choose another "
                       "name or --out.")


def dependencies(jobs: Sequence[Job], folder: str | pathlib.Path) -> dict[int, set[int]]:
  """Returns the earlier lines that a line has to wait for, by line.

  A line waits for those that write what it reads, and for those that read what it writes.
  """
  folder = pathlib.Path(folder)
  writers: dict[str, int] = {}
  readers: dict[str, set[int]] = {}
  after: dict[int, set[int]] = {}
  root = os.path.realpath(folder)
  for job in jobs:
    if job.fault:
      continue
    found, video = set(), os.path.join(root, video_path(job, folder).name)
    for file in map(os.path.realpath, named_files(job.to_make).values()):
      if file in writers:
        found.add(writers[file])
      readers.setdefault(file, set()).add(job.line)
    found |= readers.get(video, set()) - {job.line}
    writers[video] = job.line
    if found:
      after[job.line] = found
  return after


def check_output(job: Job, folder: pathlib.Path) -> None:
  """Checks that the clip of a job can be written.

  Raises:
    InputError: it cannot, or it would replace a file that is not a clip.
  """
  output.check_video_path(video_path(job, folder), named_files(job.to_make).values())


def video_path(job: Job, folder: pathlib.Path) -> pathlib.Path:
  """Returns the path of a job's clip, whether it exists or not."""
  return folder / f"{job.name}.mp4"
