"""Which part of a picture is taken, scaled to the size of the network: a centre crop."""

import dataclasses

import numpy as np

from emv3_jax.conditioning import image as image_lib
from emv3_jax.conditioning.face import FaceBox
from emv3_jax.errors import InputError


def for_sampling(height: int, width: int, size: tuple[int, int]) -> "Framing":
  """The whole picture where `size` is its own, shrunk and rounded down as `sample_size` does; a crop
  to the shape of `size` where that is another."""
  shape = (height, width) if image_lib.is_sample_size(height, width, size) else size
  return Framing(height, width, size, shape)


@dataclasses.dataclass(frozen=True)
class Framing:
  """The centre crop of pictures [source_height, source_width] that is scaled to `size`.

  The crop has the aspect ratio of `shape`, which is `size` where it is left out, and one side in full.
  """

  source_height: int
  source_width: int
  size: tuple[int, int]
  shape: tuple[int, int] | None = None

  @property
  def crop(self) -> tuple[int, int, int, int]:
    """top, left, height, width in pixels of the source."""
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
    """Whether nothing is cut off."""
    return self.crop == (0, 0, self.source_height, self.source_width)

  def picture(self, frame: np.ndarray) -> np.ndarray:
    """uint8 [*size, 3] of a source picture."""
    top, left, height, width = self.crop
    return image_lib.resize_lanczos(frame[top:top + height, left:left + width], self.size)

  def box(self, box: FaceBox) -> FaceBox:
    """A box of the source, or of one of another scale, in pixels of the crop, cut at its edges.

    Raises:
      InputError: nothing of it is in the crop.
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
