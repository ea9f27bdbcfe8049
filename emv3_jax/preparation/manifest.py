"""The manifest of clips to prepare: one JSON object per line, or another form of `metadata`."""

import dataclasses
import json
import pathlib
from typing import Any

from absl import logging

from emv3_jax.conditioning import face_boxes
from emv3_jax.errors import InputError
from emv3_jax.io import manifests, paths
from emv3_jax.io.manifests import is_text
from emv3_jax.preparation import metadata

_NEEDED = ("id", "video", "prompt")
_OPTIONAL = ("face_box", "mouth_box", "report")
_BOXES, _FILES = ("face_box", "mouth_box"), ("video", "report")
_OF_REPORTS = ("prompt", "face_box", "mouth_box")  # what a report tells of a clip


@dataclasses.dataclass(frozen=True)
class Clip:
  """One line or entry of a manifest.

  Attributes:
    line: its number, from 1.
    id: unique in the manifest.
    video: file with pictures and sound.
    prompt: caption; may be empty.
    face_box: `y1,y2,x1,x2` in pixels of the video, ends excluded; a `.npy` of the released scripts; boxes by
      frame, see `face_boxes.read_boxes`; `auto` (looked for in each window) or `none` (audio acts everywhere).
    mouth_box: `y1,y2,x1,x2`, or boxes by frame; empty takes the lower part of the face box.
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
  """A clip or window that could not be used; a line of rejected.jsonl."""

  line: int
  id: str
  video: str
  window: int | None
  reason: str


def read_manifest(path: str | pathlib.Path, data_root: str | pathlib.Path | None = None) -> list[Clip]:
  """Reads a manifest of any form of `metadata`; other keys are ignored.

  Relative paths in it are relative to `data_root`; None takes the folder of the manifest. A line that cannot be used is kept with its fault, so that the other lines still run; so are
  lines of one id.

  Raises:
    InputError: it cannot be read, or has no lines.
  """
  paths.refuse_address(path, "Manifest")
  path = pathlib.Path(path)
  entries = metadata.read_entries(path, None if data_root is None else pathlib.Path(data_root))
  clips = [_read_line(line, entries.folder) for line in entries.lines]
  if not clips:
    raise InputError(f"Manifest {path} has no clips; write one JSON object a line.")
  twice = manifests.repeated((clip.line, clip.id) for clip in clips if not clip.fault)
  for index, clip in enumerate(clips):
    if not clip.fault and clip.id in twice:
      lines = ", ".join(map(str, twice[clip.id][:5]))
      clips[index] = dataclasses.replace(
          clip, fault=f"{'lines' if entries.unit == 'line' else 'entries'} {lines} all have id {clip.id!r}; give each clip an id of its own")
    elif not clip.fault and clip.report is None and not clip.prompt.strip():
      logging.warning("Clip %s (%s %d) has an empty prompt: it teaches nothing about text.",
                      clip.id, entries.unit, clip.line)
  return clips


def _read_line(line: manifests.Line, folder: pathlib.Path) -> Clip:
  number, values, fault = line.number, line.values, line.fault
  found = {name: values[name] for name in _NEEDED + _OPTIONAL if name in values}
  for name in _BOXES:
    if name in found:
      found[name], wrong_box = _box(found[name])
      fault = fault or (wrong_box and f"{name} {wrong_box}")
  wrong = [name for name, value in found.items() if not is_text(value)]
  needed = [name for name in _NEEDED if name not in _OF_REPORTS or "report" not in found]
  missing = [name for name in needed if not found.get(name) and name != "prompt" or name not in found]
  if not fault and wrong:
    fault = f"{wrong[0]} is {ascii(found[wrong[0]])[:60]}, expected a string"
  elif not fault and missing:
    fault = f"{' and '.join(missing)} missing; wanted id, video and prompt, or id, video and report"
  try:
    for name in _FILES if not fault else ():
      paths.refuse_address(found.get(name, ""), name.capitalize())
  except InputError as error:
    fault = str(error)
  if fault:
    name = found.get("id")
    return Clip(number, name if is_text(name) and name else f"line {number}", pathlib.Path(), "",
                fault=manifests.shortened(fault))
  if "report" in found:
    return _read_made(number, found, folder)
  for name in _BOXES:
    if found.get(name, "").endswith((".npy", ".json")):
      found[name] = str(folder / found[name])
  return Clip(number, **{**found, "video": folder / found["video"]})


def _box(value: Any) -> tuple[Any, str]:
  """Returns a box, or boxes by frame, as text, and why it cannot be used, or ""."""
  if isinstance(value, list) and (len(value) != 4 or any(isinstance(edge, list) for edge in value)):
    fault = face_boxes.box_list_fault(value)
    return ("" if fault else json.dumps(value)), fault
  return manifests.box_text(value), ""


def _read_made(number: int, found: dict[str, str], folder: pathlib.Path) -> Clip:
  unused = [name for name in _OF_REPORTS if name in found]
  if unused:
    logging.warning("Clip %s (line %d): %s of the line is not used; its report tells.",
                    found["id"], number, " and ".join(unused))
  return Clip(number, found["id"], folder / found["video"], "", report=folder / found["report"])
