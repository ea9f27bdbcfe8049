"""The list of clips to prepare: one JSON object a line."""

import dataclasses
import json
import pathlib

from absl import logging

from emv3_jax.errors import InputError

_NEEDED = ("id", "video", "prompt")
_OPTIONAL = ("face_box", "mouth_box")


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
  """

  line: int
  id: str
  video: pathlib.Path
  prompt: str
  face_box: str = "auto"
  mouth_box: str = ""
  fault: str = ""


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
    if not clip.fault and not clip.prompt.strip():
      logging.warning("Clip %s (line %d) has an empty prompt: it teaches nothing about text.",
                      clip.id, clip.line)
  return clips


def _read_line(number: int, line: str, folder: pathlib.Path) -> Clip:
  values, fault = {}, ""
  try:
    values = json.loads(line)
  except json.JSONDecodeError as error:
    fault = f"not JSON: {error}"
  if not fault and not isinstance(values, dict):
    values, fault = {}, f"is {type(values).__name__}, expected a JSON object"
  found = {name: values[name] for name in _NEEDED + _OPTIONAL if values.get(name) is not None}
  wrong = [name for name, value in found.items() if not isinstance(value, str)]
  missing = [name for name in _NEEDED if not found.get(name) and name != "prompt" or name not in found]
  if not fault and wrong:
    fault = f"{wrong[0]} is {found[wrong[0]]!r}, expected a string"
  elif not fault and missing:
    fault = f"{' and '.join(missing)} missing; wanted id, video and prompt"
  if fault:
    name = found.get("id")
    return Clip(number, name if isinstance(name, str) and name else f"line {number}",
                pathlib.Path(), "", fault=fault)
  if found.get("face_box", "").endswith(".npy"):
    found["face_box"] = str(folder / found["face_box"])
  return Clip(number, **{**found, "video": folder / found["video"]})
