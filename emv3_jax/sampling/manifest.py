"""The list of clips to make: one JSON object a line, looked at as a whole before the first is made."""

from collections.abc import Sequence
import dataclasses
import math
import os
import pathlib
import re
import typing
import unicodedata

from emv3_jax.errors import InputError
from emv3_jax.io import manifests, paths
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling import output
from emv3_jax.sampling.inputs import check_files, check_request, named_files
from emv3_jax.sampling.settings import VISUAL_INPUTS, Config, Request

_PATHS = ("audio", *VISUAL_INPUTS)
_LONGEST_MADE_NAME = 80  # bytes, of the part that is made of a file's name


@dataclasses.dataclass(frozen=True)
class Job:
  """One line of a manifest.

  Attributes:
    line: line number, from 1.
    name: output name without ending; the line's `name`, else made of line number and audio's name.
    request: what to make; None when the line cannot be used.
    fault: why it cannot be made, as far as that is known before it is tried.
  """

  line: int
  name: str
  request: Request | None
  fault: str = ""


def read_manifest(path: str | pathlib.Path) -> list[Job]:
  """Reads a manifest. Relative paths in it are relative to the manifest's folder.

  A line that is not a usable job is kept with its fault, so that the other lines still run; so are
  lines that name one output.

  Raises:
    InputError: the manifest cannot be read, or has no lines.
  """
  paths.refuse_address(path, "Manifest")
  path = pathlib.Path(path)
  jobs = [_read_line(line, path.parent) for line in manifests.read_lines(path)]
  if not jobs:
    raise InputError(f"Manifest {path} has no jobs; write one JSON object a line.")
  twice = manifests.repeated((job.line, job.name) for job in jobs if not job.fault)
  return [job if job.fault or job.name not in twice else dataclasses.replace(
      job, fault=f"lines {_enumerated(twice[job.name])} all make {job.name!r}; give each a name of its own")
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
  except (ValueError, ArithmeticError, RecursionError) as error:  # numbers and nesting without end too
    return Job(line.number, name, None, manifests.shortened(str(error)))
  return Job(line.number, name, request)


def _name(number: int, given, audio) -> str:
  """The name that was given, or a plain one made of that of the audio file."""
  if given is not None:
    if not re.fullmatch(r"[\w.-]+", str(given)):
      raise InputError(f"name {given!r} is not a plain file name; use letters, digits and . _ -")
    return str(given)
  stem = pathlib.PurePath(unicodedata.normalize("NFC", audio)).stem if isinstance(audio, str) else ""
  plain = re.sub(r"[^\w.-]+", "_", stem).encode()[:_LONGEST_MADE_NAME].decode(errors="ignore").strip("_.")
  return f"{number:04d}_{plain}" if plain else f"{number:04d}"


def _plain(values: dict, folder: pathlib.Path) -> dict:
  """Values as a request takes them: 3.0 as 3, a list as a box, paths that lead there from here."""
  plain, types = {}, typing.get_type_hints(Request)
  for key, value in values.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise InputError(f"{key} is {value}, no finite number; write null where there is none")
    if key == "face_box":
      value = manifests.box_text(value)
    if int in typing.get_args(types.get(key)):
      value = manifests.whole(value)
    if isinstance(value, str):
      if not manifests.is_text(value):
        raise InputError(f"{key} is {value!a}, which has half a character or a zero byte in it")
      if key in _PATHS or key == "face_box" and value.endswith(".npy"):
        paths.refuse_address(value, key.capitalize())
        value = str(folder / value)
    plain[key] = value
  return plain


def check_jobs(jobs: Sequence[Job], folder: str | pathlib.Path, config: Config) -> list[Job]:
  """Looks at what jobs say, at the files that they name and at what they are to write; gives them with what
  was found. No file is decoded.

  What an earlier line makes need not be there yet.

  Raises:
    InputError: nothing can be written to `folder`, which is made where absent.
  """
  folder = pathlib.Path(folder)
  output.make_folder(folder)
  readers: dict[tuple[int, int] | None, int] = {None: 0}
  for job in jobs:
    for file in named_files(job.request).values() if not job.fault else ():
      readers.setdefault(paths.identity(file), job.line)
  checked, made = [], set()
  for job in jobs:
    if not job.fault:
      try:
        check_request(job.request, config)
        check_files(job.request, made)
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
    reader = readers.get(paths.identity(file))
    if reader and not output.is_report(output.report_path(video)):
      raise InputError(f"Output {file} is read by line {reader}, and would be replaced; choose another "
                       "name or --out.")


def check_output(job: Job, folder: pathlib.Path) -> None:
  """
  Raises:
    InputError: the clip of a job cannot be written, or what it would replace is not a clip.
  """
  output.check_video_path(video_path(job, folder), named_files(job.request).values())


def video_path(job: Job, folder: pathlib.Path) -> pathlib.Path:
  """Where the clip of a job is or would be."""
  return folder / f"{job.name}.mp4"
