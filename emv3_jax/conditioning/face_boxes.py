"""Boxes of one face by frame: files of them, gaps in them, and the regions that follow from them.

Boxes by frame are float64 [F, 4]: rows y1 to y2 and columns x1 to x2 (ends excluded) in pixels. A row of NaN
stands for a frame without a box.
"""

from collections.abc import Callable, Iterable
import json
import math
import os
import pathlib
from typing import Any

from absl import logging
from jaxtyping import Bool, Float64, UInt16
import numpy as np

from emv3_jax.conditioning.face import MAX_ASPECT_ERROR, FaceBox
from emv3_jax.conditioning.framing import Framing
from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS, FRAMES, TOKEN, token_grid
from emv3_jax.limits import LARGEST
from emv3_jax.tasks import face_masks

MAX_GAP = FPS  # frames, one second, without a box, one after the other, that are bridged
_SHAPES = "wanted a list of boxes [y1, y2, x1, x2], one for each frame of the video, null for a frame without one"

Boxes = Float64[np.ndarray, "F 4"]


def is_file(source: str) -> bool:
  """Returns whether a value of `face_box` or `mouth_box` names a file."""
  return source.endswith((".npy", ".json"))


def is_by_frame(source: str) -> bool:
  """Returns whether a value of `face_box` or `mouth_box` is boxes by frame: JSON text, a `.json` file, or a
  `.npy` file of a table."""
  if source.endswith(".npy"):
    return _table_shape(source) is not None
  return source.startswith("[") or source.endswith(".json")


def _table_shape(path: str) -> tuple[int, ...] | None:
  """Returns the shape of an array file with two axes; None for other files, which `face` reads or refuses."""
  if not os.path.isfile(path):
    return None
  try:
    shape = np.lib.format.open_memmap(path, mode="r").shape
  except (OSError, ValueError, EOFError):
    return None
  return shape if len(shape) == 2 else None


def read_boxes(source: str, height: int, width: int, frames: int, what: str = "Face box") -> Boxes:
  """Reads boxes by frame, in pixels of pictures of `height` x `width`.

  Args:
    source: a `.npy` file of [F, 4], or of [F, 6] with the released order [y1, y2, x1, x2, image height, image
      width]; a `.json` file, or its text: a list of [y1, y2, x1, x2] or null.
    height, width: of the video's pictures.
    frames: F, the number of frames of the video's file.
    what: name in messages.

  Returns:
    float64 [F, 4], NaN where there is none.

  Raises:
    InputError: it cannot be read, is something else, has a box that is reversed or negative, is for pictures
      of another aspect ratio, or the video has another number of frames.
  """
  name = what if source.startswith("[") else f"{what} {source}"
  table = _read_npy(source, name) if source.endswith(".npy") else _read_json(source, name)
  if len(table) != frames:
    raise InputError(f"{name} has boxes for {len(table)} frames, the video has {frames}; give one for each frame "
                     "of the file, null (in .npy: nan) for a frame without one.")
  boxes = np.array(table[:, :4])
  if table.shape[1] == 6:
    boxes = _scaled(table, height, width, name)
  known = ~np.isnan(boxes).any(axis=1)
  if not known.any():
    raise InputError(f"{name} has no box for any frame.")
  y1, y2, x1, x2 = boxes.T
  with np.errstate(invalid="ignore"):
    wrong = known & ~((y1 < y2) & (x1 < x2) & np.isfinite(boxes).all(axis=1))
  if wrong.any():
    first = np.flatnonzero(wrong)[0]
    raise InputError(f"{name}: the box of frame {first}, {shown(boxes[first])}, is reversed or empty; wanted y1 < y2 "
                     f"and x1 < x2 ({spans(wrong)}).")
  boxes[~known] = np.nan
  return boxes


def _read_npy(path: str, name: str) -> np.ndarray:
  try:
    with open(path, "rb") as file:
      values = np.lib.format.read_array(file, allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise InputError(f"{name} cannot be read: {error}.") from None
  if values.ndim != 2 or values.shape[1] not in (4, 6) or values.dtype.kind not in "iuf":
    raise InputError(f"{name} holds {values.dtype} {list(values.shape)}; wanted numbers [F, 4] (y1, y2, x1, x2) or "
                     "[F, 6] (then image height, image width), one row for each frame of the video.")
  return values.astype(np.float64)


def _read_json(source: str, name: str) -> np.ndarray:
  if not source.startswith("[") and os.path.exists(source) and not os.path.isfile(source):
    raise InputError(f"{name} is not a regular file.")  # opening a pipe would block
  try:
    text = source if source.startswith("[") else pathlib.Path(source).read_text(encoding="utf-8")
    values = json.loads(text)
  except OSError as error:
    raise InputError(f"{name}: {error.strerror}.") from None
  except (ValueError, RecursionError) as error:
    raise InputError(f"{name} is not JSON: {error}.") from None
  if (fault := box_list_fault(values)):
    raise InputError(f"{name}: {fault}.")
  return np.array([[math.nan] * 4 if box is None else box for box in values], np.float64)


def box_list_fault(values: Any) -> str:
  """Returns why `values` is not a list of boxes or None by frame, or ""."""
  if not isinstance(values, list) or not values:
    return f"is {ascii(values)[:60]}; {_SHAPES}"
  for number, box in enumerate(values):
    if box is not None and not (isinstance(box, list) and len(box) == 4 and all(
        type(edge) in (int, float) and abs(edge) < LARGEST for edge in box)):
      return f"has {ascii(box)[:60]} for frame {number}; {_SHAPES}"
  return ""


def _scaled(table: np.ndarray, height: int, width: int, name: str) -> np.ndarray:
  """Converts boxes of pictures of other sizes to pixels of the video."""
  known = ~np.isnan(table).any(axis=1)
  sizes = table[known, 4:]
  with np.errstate(divide="ignore", invalid="ignore"):
    off = np.abs(np.log(sizes[:, 0] / sizes[:, 1] / (height / width)))
  if not (off <= MAX_ASPECT_ERROR).all():
    raise InputError(f"{name} was made for pictures of another aspect ratio than the video's {width}x{height}.")
  scaled = np.full((len(table), 4), np.nan)
  down, across = height / table[known, 4:5], width / table[known, 5:6]
  scaled[known] = table[known, :4] * np.concatenate([down, down, across, across], axis=1)
  return scaled


def shown(box: Iterable[float]) -> str:
  return ",".join(f"{edge:g}" for edge in box)


def spans(frames: Bool[np.ndarray, "F"]) -> str:
  """Returns the names of the frames that are True, e.g. `frames 3, 8-20`."""
  numbers = np.flatnonzero(frames)
  runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
  named = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
  named = named if len(named) <= 6 else [*named[:5], f"... {named[-1]}"]
  return f"frame{'s' if len(numbers) > 1 else ''} {', '.join(named)}"


def bridged(boxes: Boxes, name: str, first: int = 0) -> Boxes:
  """Fills frames without a box: between two boxes on a straight line, at the ends by the nearest box.

  Args:
    boxes: NaN where there is none.
    name: of the boxes, in messages.
    first: number of the first frame, in messages.

  Raises:
    InputError: more than MAX_GAP frames one after the other have no box; the message names them.
  """
  lost = np.isnan(boxes).any(axis=1)
  numbers = np.flatnonzero(lost)
  for run in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1):
    if len(run) > MAX_GAP or len(run) == len(boxes):
      raise InputError(f"{name}: frames {first + run[0]}-{first + run[-1]} have no box; at most {MAX_GAP} frames one "
                       "after the other are bridged. Give boxes for them, or leave these frames out.")
  return between(np.flatnonzero(~lost), boxes[~lost], len(boxes)) if lost.any() else boxes


def between(frames: np.ndarray, boxes: Float64[np.ndarray, "n 4"], count: int) -> Boxes:
  """Interpolates the boxes of some frames to boxes of `count` frames; before and after them the nearest holds."""
  return np.stack([np.interp(np.arange(count), frames, edge) for edge in boxes.T], axis=1)


def framed(boxes: Boxes, framing: Framing, name: str, first: int = 0, tell: Callable = logging.warning) -> Boxes:
  """Converts boxes of the source to pixels of the framing's crop. They may reach beyond its edges.

  Args:
    boxes: in pixels of the source, without NaN.
    framing: its crop.
    name: of the boxes, in messages.
    first: number of the first frame, in messages.
    tell: logs in which frames a part of the face is not to be seen.

  Raises:
    InputError: a box lies outside the crop; the message names the frames.
  """
  top, left, height, width = framing.crop
  moved = boxes - np.array([top, top, left, left])
  cut = np.clip(moved, 0, np.array([height, height, width, width]))
  outside = (cut[:, 0] >= cut[:, 1]) | (cut[:, 2] >= cut[:, 3])
  numbered = lambda flags: spans(np.concatenate([np.zeros(first, bool), flags]))
  if outside.any():
    raise InputError(f"{name} lies outside the picture, or the centre crop of it that is used, in {numbered(outside)} "
                     f"(rows {top} to {top + height}, columns {left} to {left + width}). Leave these frames out, or "
                     "give boxes in it.")
  clipped = (cut != moved).any(axis=1)
  if clipped.any():
    tell("%s leaves the picture in %s; what is outside is cut off.", name, numbered(clipped))
  return moved


def as_boxes(box: FaceBox) -> Boxes:
  """Returns one box as [1, 4]."""
  return np.array([[box.y1, box.y2, box.x1, box.x2]], np.float64)


def token_boxes(boxes: Float64[np.ndarray, "n 4"], picture: tuple[int, int], size: tuple[int, int], *,
                optional: bool = True, first: int = 0) -> UInt16[np.ndarray, "n 4"]:
  """Rounds boxes to tokens, of which `face_masks.token_mask` makes M_face of eq. 1.

  As in the reference, both axes of a box are scaled by the square root of the ratio of the areas, even
  if the resized picture has another aspect ratio, and each edge is rounded down to tokens.

  Args:
    boxes: in pixels of pictures of size `picture`.
    picture: (height, width).
    size: sampled size (H, W) in pixels.
    optional: whether messages may suggest `none`.
    first: number of the first frame, in messages.

  Raises:
    InputError: a box covers no whole token row or column, so that the voice would have no effect.
  """
  height, width = size
  ratio = math.sqrt(height * width / (picture[0] * picture[1]))
  rows, columns = token_grid(size)
  tokens = np.clip(np.asarray(boxes) * ratio // TOKEN, 0, [rows, rows, columns, columns]).astype(np.uint16)
  empty = (tokens[:, 0] >= tokens[:, 1]) | (tokens[:, 2] >= tokens[:, 3])
  if empty.any():
    where = f" in {spans(np.concatenate([np.zeros(first, bool), empty]))}" if len(boxes) > 1 else ""
    raise InputError(f"The face is too small for sampling at {width}x{height}{where}: it covers no "
                     f"cell of {TOKEN}x{TOKEN} pixels. Give a larger face box"
                     f"{' or none' if optional else ''}.")
  return tokens


def mouth_regions(boxes: Float64[np.ndarray, "n 4"], picture: tuple[int, int], size: tuple[int, int],
                  fraction: float = 0.5, first: int = 0) -> Bool[np.ndarray, "n H W"]:
  """Computes the region that lip-sync inpaints in each frame: the lower part of the face box, in its full width.

  The lower half holds the mouth, the chin and the cheeks that move with them. Frames of one latent frame have one region, all that one of them has, because they are generated as one.

  Args:
    boxes: [1, 4] or [F, 4] in pixels of pictures of size `picture`; F = 4 k + 1.
    picture: (height, width).
    size: sampled size (H, W) in pixels.
    fraction: of each box's height, in (0, 1].
    first: number of the first frame, in messages.

  Raises:
    InputError: with boxes by frame, a region that is wholly outside the picture; names the frames.
  """
  height, width = size
  y1, y2, x1, x2 = boxes.T[..., None]
  top = y2 - fraction * (y2 - y1)
  y, x = np.arange(height) + 0.5, np.arange(width) + 0.5  # a pixel belongs to the region if its centre does
  rows = (y >= top * height / picture[0]) & (y < y2 * height / picture[0])
  columns = (x >= x1 * width / picture[1]) & (x < x2 * width / picture[1])
  regions = rows[:, :, None] & columns[:, None, :]
  if len(boxes) == 1:
    return regions
  gone = ~regions.any(axis=(1, 2))
  if gone.any():
    raise InputError(f"The mouth is outside the picture in {spans(np.concatenate([np.zeros(first, bool), gone]))}: nothing "
                     "of it is to be seen there. Leave these frames out, or give boxes whose mouth is in the picture.")
  latent = face_masks.by_latent_frame(regions)
  return np.concatenate([latent[:1], np.repeat(latent[1:], FRAMES, axis=0)])
