"""Square crops of a picture at the sizes of the networks; what lies outside the picture is black."""

import math

from jaxtyping import UInt8
import numpy as np
from PIL import Image


def upright(picture: Image.Image, left: float, top: float, side: float, size: int) -> UInt8[np.ndarray, "h w 3"]:
  """Returns the square of `side` pixels from (left, top) on, resized to `size` x `size`."""
  scale = size / side
  x1, y1 = max(left, 0), max(top, 0)
  x2, y2 = min(left + side, picture.width), min(top + side, picture.height)
  columns = round((x1 - left) * scale), max(round((x2 - left) * scale), round((x1 - left) * scale) + 1)
  rows = round((y1 - top) * scale), max(round((y2 - top) * scale), round((y1 - top) * scale) + 1)
  crop = np.zeros((size, size, 3), np.uint8)
  resized = picture.resize((columns[1] - columns[0], rows[1] - rows[0]), Image.Resampling.BILINEAR,
                           box=(x1, y1, x2, y2), reducing_gap=2.0)
  part = crop[rows[0]:rows[1], columns[0]:columns[1]]
  part[:] = np.asarray(resized)[:part.shape[0], :part.shape[1]]
  return crop


def turned(picture: Image.Image, centre: np.ndarray, side: float, roll: float, size: int
           ) -> tuple[UInt8[np.ndarray, "h w 3"], np.ndarray]:
  """Returns the square of `side` pixels about `centre` (x, y), turned by `roll`, resized to `size` x `size`.

  Args:
    picture: the picture.
    centre: of the square, in pixels.
    side: of the square, in pixels.
    roll: radians by which the square is turned clockwise.
    size: pixels of the result.

  Returns:
    the crop, and the 2x3 matrix that maps its pixels (x, y, 1) to pixels of the picture.
  """
  step = side / size
  turn = step * np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
  matrix = np.column_stack([turn, centre - turn @ np.full(2, size / 2)])
  reach = side / math.sqrt(2) + 2 * step
  left, top = np.maximum(np.floor(centre - reach), 0).astype(int).tolist()
  right, bottom = np.minimum(np.ceil(centre + reach), picture.size).astype(int).tolist()
  if left >= right or top >= bottom:
    return np.zeros((size, size, 3), np.uint8), matrix
  shrink = max(int(step), 1)
  part = picture.crop((left, top, right, bottom))
  if shrink > 1:
    part = part.reduce(shrink)
  inner = np.column_stack([matrix[:, :2], matrix[:, 2] - (left, top)]) / shrink
  crop = part.transform((size, size), Image.Transform.AFFINE, tuple(inner.ravel()), Image.Resampling.BILINEAR)
  return np.asarray(crop), matrix
