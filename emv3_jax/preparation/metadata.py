"""The forms in which clips may be listed: JSON lines, a JSON array, CSV, or a folder of videos with captions.

All become `manifests.Line`s with the names of a manifest's keys. Other trainers' names are known, e.g.
those of VideoX-Fun: [{"file_path": "a.mp4", "text": "a man speaks", "type": "video"}, ...].
"""

import codecs
from collections.abc import Iterator, Sequence
import csv
import dataclasses
import io
import json
import os
import pathlib
from typing import Any

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.io import manifests
from emv3_jax.io.manifests import Line

NAMES = {"video": ("video", "file_path", "path", "file_name"), "prompt": ("prompt", "text", "caption")}
VIDEOS = frozenset((".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm",
                    ".wmv"))  # what counts as a video in a folder; a listed file may have any name
CAPTION = ".txt"


@dataclasses.dataclass(frozen=True)
class Entries:
  """What a manifest lists.

  Attributes:
    lines: in its order, by the names of a manifest's keys; images are left out.
    unit: what their numbers count: `line` or `entry`.
    folder: that paths in it are relative to.
  """

  lines: list[Line]
  unit: str
  folder: pathlib.Path


def read_entries(path: pathlib.Path, data_root: pathlib.Path | None = None) -> Entries:
  """Reads a manifest: a folder, a `.csv`, a `.json` that holds an array, or JSON lines.

  Args:
    path: of the manifest.
    data_root: folder that paths are relative to; None takes that of the manifest.

  Raises:
    InputError: it cannot be read, or is not of its form as a whole.
  """
  if data_root is not None and not data_root.is_dir():
    raise InputError(f"Data root {data_root} is not a folder.")
  if path.is_dir():
    if data_root is not None:
      raise InputError(f"Manifest {path} is a folder, whose videos lie in it; leave --data_root out.")
    return Entries(list(_of_folder(path)), "entry", path)
  lines, unit = None, "entry"
  if path.suffix.lower() == ".json":
    lines = _of_array(path)
  elif path.suffix.lower() == ".csv":
    lines, unit = list(_of_csv(path)), "line"
  if lines is None:
    lines, unit = manifests.read_lines(path), "line"
  return Entries(_videos([_with_own_names(line) for line in lines], path), unit, data_root or path.parent)


def _with_own_names(line: Line) -> Line:
  """With the names of a manifest's keys, and an id where there is none: the video without its suffix."""
  values = dict(line.values)
  for own, names in NAMES.items():
    found = next((name for name in names if name in values), None)
    if found is not None:
      values[own] = values[found]
  if "id" not in values and isinstance(values.get("video"), str) and values["video"]:
    values["id"] = _without_suffix(values["video"])
  return dataclasses.replace(line, values=values)


def _without_suffix(path: str) -> str:
  pure = pathlib.PurePosixPath(path)
  return str(pure.with_suffix("")) if pure.name else path


def _videos(lines: Sequence[Line], path: pathlib.Path) -> list[Line]:
  """Leaves images out, which is told; other types become faults."""
  kept, images = [], 0
  for line in lines:
    kind = line.values.get("type", "video")
    if not line.fault and kind == "image":
      images += 1
      continue
    fault = line.fault or ("" if kind == "video" else f"type is {ascii(kind)[:60]}, expected video or image")
    kept.append(dataclasses.replace(line, fault=fault))
  if images:
    logging.warning("Images in %s, skipped: %d; only videos are prepared.", path, images)
  return kept


def _of_array(path: pathlib.Path) -> list[Line] | None:
  """The entries of a JSON array, numbered from 1; None for a file that holds no array, but JSON lines."""
  content = manifests.read_content(path).removeprefix(codecs.BOM_UTF8)
  if not content.lstrip().startswith(b"["):
    return None
  try:
    entries = json.loads(content.decode())
  except UnicodeDecodeError as error:
    raise InputError(f"Manifest {path} is not UTF-8 at byte {error.start + 1}.") from None
  except (ValueError, RecursionError) as error:
    raise InputError(f"Manifest {path} is not a JSON array: {str(error)[:200]}.") from None
  return [manifests.of_json(number, entry) for number, entry in enumerate(entries, 1)]


def _of_csv(path: pathlib.Path) -> Iterator[Line]:
  """The rows of a CSV file with a header, by the number of the line that they begin in; empty cells are absent."""
  try:
    text = manifests.read_content(path).removeprefix(codecs.BOM_UTF8).decode()
  except UnicodeDecodeError as error:
    raise InputError(f"Manifest {path} is not UTF-8 at byte {error.start + 1}.") from None
  rows = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
  try:
    header = [name.strip() for name in next(rows, [])]
    if not set(NAMES["video"]) & set(header):
      raise InputError(f"Manifest {path} has the columns {ascii(', '.join(header))[:200]}; its first line "
                       f"has to name them, and one of them {', '.join(NAMES['video'])}.")
    prompts = [name for name in NAMES["prompt"] if name in header]
    begin = rows.line_num + 1
    for row in rows:
      if row:
        yield _of_row(begin, header, row, prompts)
      begin = rows.line_num + 1
  except csv.Error as error:
    raise InputError(f"Manifest {path}, line {rows.line_num}, is not CSV: {error}.") from None


def _of_row(number: int, header: list[str], row: list[str], prompts: list[str]) -> Line:
  if len(row) != len(header):
    return Line(number, {}, f"has {len(row)} cells, the header {len(header)}; a cell with commas or line "
                            "breaks needs double quotes")
  cells = dict(zip(header, row, strict=True))
  values: dict[str, Any] = {name: cell for name, cell in cells.items() if cell or name in prompts}
  return Line(number, values)


def _of_folder(path: pathlib.Path) -> Iterator[Line]:
  """The videos in a folder and in those below it, by name, each with the caption in the `.txt` beside it."""
  def refuse(error: OSError):
    raise InputError(f"Folder {error.filename} cannot be read: {error.strerror}.") from error

  found = []
  for folder, folders, files in os.walk(path, onerror=refuse):
    folders[:] = [name for name in folders if not name.startswith(".")]
    found += [pathlib.Path(folder, name) for name in files
              if not name.startswith(".") and pathlib.Path(name).suffix.lower() in VIDEOS]
  if not found:
    raise InputError(f"Folder {path} has no videos ({', '.join(sorted(VIDEOS))}).")
  for number, video in enumerate(sorted(found), 1):
    name = video.relative_to(path).as_posix()
    values: dict[str, Any] = {"id": _without_suffix(name), "video": name}
    try:
      values["prompt"] = _caption(video.with_suffix(CAPTION))
      yield Line(number, values)
    except InputError as error:
      yield Line(number, values, str(error))


def _caption(path: pathlib.Path) -> str:
  if not path.exists():
    raise InputError(f"caption {path.name} is missing beside the video")
  content = manifests.read_content(path).removeprefix(codecs.BOM_UTF8)
  try:
    return content.decode().strip()
  except UnicodeDecodeError as error:
    raise InputError(f"caption {path.name} is not UTF-8 at byte {error.start + 1}") from None
