"""Anti-aliased filling of outlines: draw four times too large, then average."""

import dataclasses
import math

import numpy as np

from emv3_jax.puppets.world.palette import Colour

SIZE = 64
OVERSAMPLE = 4


@dataclasses.dataclass(frozen=True)
class Pose:
  """A turn by `tilt` radians about the part's own `pivot`, then a move to `origin`.

  Points are [..., 2] float64 (x, y) in pixels at 64x64, y downwards; a positive tilt is clockwise.
  """

  origin: tuple[float, float] = (0.0, 0.0)
  tilt: float = 0.0
  pivot: tuple[float, float] = (0.0, 0.0)

  def place(self, points: np.ndarray) -> np.ndarray:
    """Takes points [..., 2] from the part's coordinates to the picture's."""
    cos, sin = math.cos(self.tilt), math.sin(self.tilt)
    turned = (np.asarray(points) - self.pivot) @ np.array([[cos, sin], [-sin, cos]])
    return turned + self.pivot + self.origin


HERE = Pose()
_HALF_TURN = np.linspace(-np.pi / 2, np.pi / 2, 7)


class Canvas:
  """A picture under construction: 256 x 256 samples, four by four to a pixel of the finished one.

  A sample is its colour's code, 0xRRGGBB in one integer, so that filling writes one number each.
  """

  def __init__(self, samples: np.ndarray):
    """Starts from `samples` [256, 256, 3] uint8."""
    self._codes = samples.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)

  @classmethod
  def blank(cls, colour: Colour) -> "Canvas":
    """A canvas of one colour."""
    side = SIZE * OVERSAMPLE
    return cls(np.full((side, side, 3), colour, np.uint8))

  def fill(self, outlines: np.ndarray, colour: Colour, pose: Pose = HERE) -> None:
    """Fills closed outlines [n, 2], or [m, n, 2] for the union of m that turn the same way round.

    What lies outside the picture is cut off. A sample is inside when its centre is.
    """
    outlines = np.asarray(outlines, np.float64)
    outlines = pose.place(outlines.reshape(-1, outlines.shape[-2], 2)) * OVERSAMPLE - 0.5
    side = len(self._codes)
    low = np.clip(np.ceil(outlines.min((0, 1))), 0, side).astype(int)
    high = np.clip(np.floor(outlines.max((0, 1))) + 1, 0, side).astype(int)
    if (high <= low).any():
      return
    inside = _winding(outlines, low, high) != 0
    red, green, blue = colour
    box = self._codes[low[1]:high[1], low[0]:high[0]]
    np.copyto(box, np.uint32(red << 16 | green << 8 | blue), where=inside)

  def stroke(self, points: np.ndarray, colour: Colour, width: float, pose: Pose = HERE) -> None:
    """Draws the open line `points` [n, 2], `width` pixels wide, with round joints and ends."""
    self.fill(capsule(points[:-1], points[1:], width / 2), colour, pose)

  def picture(self) -> np.ndarray:
    """The finished picture, [64, 64, 3] uint8."""
    channels = []
    for shift in (16, 8, 0):
      samples = (self._codes >> shift).astype(np.uint8)
      down = samples.reshape(SIZE, OVERSAMPLE, -1).sum(1, dtype=np.uint16)
      channels.append(down.reshape(SIZE, SIZE, OVERSAMPLE).sum(2, dtype=np.uint16))
    count = OVERSAMPLE**2
    return ((np.stack(channels, -1) + count // 2) // count).astype(np.uint8)


def _winding(outlines: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  """How often the outlines [m, n, 2] go round each sample of the box from `low` to `high` (x, y).

  Along each row of samples the number changes by one where an edge is crossed, up or down with the
  edge's direction: [rows, columns] int.
  """
  x, y = outlines[..., 0].ravel(), outlines[..., 1].ravel()
  ends = np.concatenate([outlines[:, 1:], outlines[:, :1]], 1)
  to_x, to_y = ends[..., 0].ravel(), ends[..., 1].ravel()
  rows = np.arange(low[1], high[1])[:, None]
  downwards, upwards = (y <= rows) & (to_y > rows), (y > rows) & (to_y <= rows)
  row, edge = np.nonzero(downwards | upwards)
  share = (row + low[1] - y[edge]) / (to_y[edge] - y[edge])
  crossing = np.ceil(x[edge] + share * (to_x[edge] - x[edge])) - low[0]
  width = high[0] - low[0]
  column = np.clip(crossing, 0, width).astype(int)
  turn = np.where(downwards[row, edge], 1, -1)
  turns = np.bincount(row * (width + 1) + column, turn, len(rows) * (width + 1))
  return np.cumsum(turns.reshape(len(rows), width + 1)[:, :-1], 1, dtype=np.int16)


def ellipse(x: float, y: float, width: float, height: float, points: int = 40) -> np.ndarray:
  """Outline [points, 2] of an ellipse about (x, y); `width` and `height` are half axes."""
  angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
  return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], -1)


def capsule(start, stop, radius: float) -> np.ndarray:
  """Outlines [..., 14, 2] of all within `radius` of the segments from `start` to `stop` [..., 2]."""
  start, stop = np.asarray(start, np.float64), np.asarray(stop, np.float64)
  along = stop - start
  heading = np.arctan2(along[..., 1], along[..., 0])[..., None]
  angle = heading + np.concatenate([_HALF_TURN, _HALF_TURN + np.pi])
  centre = np.where(np.arange(14)[:, None] < 7, stop[..., None, :], start[..., None, :])
  return centre + radius * np.stack([np.cos(angle), np.sin(angle)], -1)


def curve(*knots: tuple[float, float], points: int = 12) -> np.ndarray:
  """A smooth line [points, 2] that passes through three or more `knots` (Lagrange)."""
  at = np.linspace(0, 1, len(knots))
  where = np.linspace(0, 1, points)
  line = np.zeros((points, 2))
  for i, knot in enumerate(knots):
    weight = np.prod([(where - at[j]) / (at[i] - at[j]) for j in range(len(knots)) if j != i], 0)
    line += weight[:, None] * np.asarray(knot)
  return line
