"""How a clip's pictures become those of a window: the nearest size, a centre crop, Lanczos."""

import dataclasses
import math

import numpy as np

from emv3_jax.conditioning import image as image_lib
from emv3_jax.conditioning.face import FaceBox
from emv3_jax.errors import InputError


def nearest_size(height: int, width: int, sizes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
  """The (height, width) of `sizes` with the nearest aspect ratio; of equal ones the largest that does
  not enlarge the picture, or else the smallest."""
  def distance(size):
    aspect = abs(math.log(size[0] / size[1]) - math.log(height / width))
    enlarges = size[0] > height and size[1] > width
    return round(aspect, 6), enlarges, size[0] * size[1] * (1 if enlarges else -1)

  return min(sizes, key=distance)


@dataclasses.dataclass(frozen=True)
class Framing:
  """The centre crop of pictures [source_height, source_width] that is scaled to `size`.

  The crop has the aspect ratio of `size` and one side in full.
  """

  source_height: int
  source_width: int
  size: tuple[int, int]

  @property
  def crop(self) -> tuple[int, int, int, int]:
    """top, left, height, width in pixels of the source."""
    height, width = self.source_height, self.source_width
    target = self.size[0] / self.size[1]
    if height / width > target:
      height = max(1, round(width * target))
    else:
      width = max(1, round(height / target))
    return (self.source_height - height) // 2, (self.source_width - width) // 2, height, width

  def picture(self, frame: np.ndarray) -> np.ndarray:
    """uint8 [*size, 3] of a source picture."""
    top, left, height, width = self.crop
    return image_lib.resize_lanczos(frame[top:top + height, left:left + width], self.size)

  def box(self, box: FaceBox) -> FaceBox:
    """A box of the source in pixels of the crop, cut at its edges.

    Raises:
      InputError: nothing of it is in the crop.
    """
    top, left, height, width = self.crop
    y1, y2 = (min(max(edge - top, 0), height) for edge in (box.y1, box.y2))
    x1, x2 = (min(max(edge - left, 0), width) for edge in (box.x1, box.x2))
    if y1 >= y2 or x1 >= x2:
      raise InputError(
          f"box {box.y1:g},{box.y2:g},{box.x1:g},{box.x2:g} lies outside the centre crop to "
          f"{self.size[1]}x{self.size[0]} (rows {top} to {top + height}, columns {left} to "
          f"{left + width}); add a size of this clip's aspect ratio to --config.prepare.sizes.")
    return FaceBox(y1, y2, x1, x2, height, width)
