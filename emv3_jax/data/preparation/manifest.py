"""The list of clips to prepare: one JSON object a line."""

import dataclasses
import json
import pathlib

from absl import logging

from emv3_jax.errors import InputError

_NEEDED = ("id", "video", "prompt")
_OPTIONAL = ("face_box", "mouth_box", "report")
_OF_REPORTS = ("prompt", "face_box", "mouth_box")  # what a report tells of a clip


@dataclasses.dataclass(frozen=True)
class Clip:
  """One line of a manifest.

  Attributes:
    line: line number, from 1.
    id: unique in the manifest.
    video: file with pictures and sound.
    prompt: caption; may be empty.
    face_box: `y1,y2,x1,x2` in pixels of the video, ends excluded; a `.npy` of the released scripts;
      `auto` (looked for in each window) or `none` (audio acts everywhere).
    mouth_box: `y1,y2,x1,x2`; empty takes the lower part of the face box.
    fault: why the line cannot be used; then the rest may be empty.
    report: of a clip that the model made: the JSON that sampling wrote beside it, which tells the
      prompt, the face box and all else; None for ordinary footage.
  """

  line: int
  id: str
  video: pathlib.Path
  prompt: str
  face_box: str = "auto"
  mouth_box: str = ""
  fault: str = ""
  report: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Rejection:
  """A clip, or one window of it, that could not be used; a line of rejected.jsonl."""

  line: int
  id: str
  video: str
  window: int | None
  reason: str


def read_manifest(path: str | pathlib.Path) -> list[Clip]:
  """Reads a manifest. Relative paths in it are relative to its folder; other keys are left alone.

  A line that cannot be used is kept with its fault, so that the other lines still run.

  Raises:
    InputError: it cannot be read, is empty, or has an id twice.
  """
  path = pathlib.Path(path)
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"Manifest {path} cannot be read: {error}.") from error
  clips = [_read_line(number, line, path.parent) for number, line in enumerate(lines, 1)
           if line.strip()]
  if not clips:
    raise InputError(f"Manifest {path} has no clips; write one JSON object a line.")
  lines_of = {}
  for clip in clips:
    if clip.id in lines_of:
      raise InputError(f"Manifest {path}: lines {lines_of[clip.id]} and {clip.line} both have id "
                       f"{clip.id!r}; give each clip an id of its own.")
    lines_of[clip.id] = clip.line
    if not clip.fault and clip.report is None and not clip.prompt.strip():
      logging.warning("Clip %s (line %d) has an empty prompt: it teaches nothing about text.",
                      clip.id, clip.line)
  return clips


def _read_line(number: int, line: str, folder: pathlib.Path) -> Clip:
  values, fault = {}, ""
  try:
    values = json.loads(line)
  except (ValueError, RecursionError) as error:  # numbers and nesting beyond Python's limits too
    fault = f"not JSON: {error}"
  if not fault and not isinstance(values, dict):
    values, fault = {}, f"is {type(values).__name__}, expected a JSON object"
  found = {name: values[name] for name in _NEEDED + _OPTIONAL if values.get(name) is not None}
  wrong = [name for name, value in found.items() if not _is_text(value)]
  needed = [name for name in _NEEDED if name not in _OF_REPORTS or "report" not in found]
  missing = [name for name in needed if not found.get(name) and name != "prompt" or name not in found]
  if not fault and wrong:
    fault = f"{wrong[0]} is {ascii(found[wrong[0]])[:60]}, expected a string"
  elif not fault and missing:
    fault = f"{' and '.join(missing)} missing; wanted id, video and prompt, or id, video and report"
  if fault:
    name = found.get("id")
    return Clip(number, name if _is_text(name) and name else f"line {number}", pathlib.Path(), "",
                fault=fault)
  if "report" in found:
    return _read_made(number, found, folder)
  if found.get("face_box", "").endswith(".npy"):
    found["face_box"] = str(folder / found["face_box"])
  return Clip(number, **{**found, "video": folder / found["video"]})


def _read_made(number: int, found: dict[str, str], folder: pathlib.Path) -> Clip:
  unused = [name for name in _OF_REPORTS if name in found]
  if unused:
    logging.warning("Clip %s (line %d): %s of the line is not used; its report tells.",
                    found["id"], number, " and ".join(unused))
  return Clip(number, found["id"], folder / found["video"], "", report=folder / found["report"])


def _is_text(value) -> bool:
  """Whether it is a string that a file or a file's name can hold."""
  try:
    return isinstance(value, str) and b"\0" not in value.encode()
  except UnicodeEncodeError:  # half of a surrogate pair
    return False
