"""Framing of pictures: the centre crop that is scaled to the size of the network."""

import dataclasses

import numpy as np

from emv3_jax.conditioning import image as image_lib
from emv3_jax.conditioning.face import FaceBox
from emv3_jax.errors import InputError


def for_sampling(height: int, width: int, size: tuple[int, int]) -> "Framing":
  """Returns the framing of a picture of `height` x `width` pixels for sampling at `size`.

  The whole picture is used if `sample_size` gives `size` for it, else a crop to the aspect ratio of `size`.
  """
  shape = (height, width) if image_lib.is_sample_size(height, width, size) else size
  return Framing(height, width, size, shape)


@dataclasses.dataclass(frozen=True)
class Framing:
  """The centre crop of pictures [source_height, source_width] that is scaled to `size`.

  The crop has the aspect ratio of `shape` (default: `size`) and the full height or width of the picture.
  """

  source_height: int
  source_width: int
  size: tuple[int, int]
  shape: tuple[int, int] | None = None

  @property
  def crop(self) -> tuple[int, int, int, int]:
    """Crop (top, left, height, width) in pixels of the source."""
    height, width = self.source_height, self.source_width
    shape = self.shape or self.size
    target = shape[0] / shape[1]
    if height / width > target:
      height = max(1, round(width * target))
    else:
      width = max(1, round(height / target))
    return (self.source_height - height) // 2, (self.source_width - width) // 2, height, width

  @property
  def is_whole(self) -> bool:
    """Whether the crop is the whole picture."""
    return self.crop == (0, 0, self.source_height, self.source_width)

  def picture(self, frame: np.ndarray) -> np.ndarray:
    """Crops and resizes a source picture to uint8 [*size, 3]."""
    top, left, height, width = self.crop
    return image_lib.resize_lanczos(frame[top:top + height, left:left + width], self.size)

  def box(self, box: FaceBox) -> FaceBox:
    """Converts a box of the source, at any scale, to pixels of the crop and clips it at the crop's edges.

    Raises:
      InputError: the box is outside the crop.
    """
    top, left, height, width = self.crop
    down, across = box.height / self.source_height, box.width / self.source_width
    y1, y2 = (min(max(edge / down - top, 0), height) for edge in (box.y1, box.y2))
    x1, x2 = (min(max(edge / across - left, 0), width) for edge in (box.x1, box.x2))
    if y1 >= y2 or x1 >= x2:
      raise InputError(
          f"box {box.y1:g},{box.y2:g},{box.x1:g},{box.x2:g} lies outside the centre crop to "
          f"{self.size[1]}x{self.size[0]} (rows {top} to {top + height}, columns {left} to "
          f"{left + width}); give a box in it, or choose a size of the picture's own aspect ratio.")
    return FaceBox(y1, y2, x1, x2, height, width)
