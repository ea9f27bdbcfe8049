"""The pictures that a request gives for frames of its clip; no others are in memory."""

from jaxtyping import Float32, UInt8
import numpy as np

from emv3_jax.conditioning import image as image_lib


class GivenFrames:
  """Pictures of some frames of a clip.

  Args:
    frames: F, number of frames of the clip.
    size: (H, W) of its pictures in pixels.

  Attributes:
    shape: [F, H, W, 3], of all frames.
  """

  def __init__(self, frames: int, size: tuple[int, int]):
    self.shape: tuple[int, int, int, int] = (frames, *size, 3)
    self._pictures: dict[int, np.ndarray] = {}

  def put(self, number: int, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    """Gives the picture of frame `number`."""
    self._pictures[number] = picture

  def first(self, frames: int) -> "GivenFrames":
    """Returns those of a clip's first `frames` frames."""
    found = GivenFrames(frames, self.shape[1:3])
    found._pictures = {number: picture for number, picture in self._pictures.items() if number < frames}
    return found

  def pixels(self, start: int = 0, stop: int | None = None) -> UInt8[np.ndarray, "n H W 3"]:
    """Returns the pictures of the frames start, ..., stop - 1; black where none is given."""
    numbers = range(self.shape[0])[start:stop]
    found = np.zeros((len(numbers), *self.shape[1:]), np.uint8)
    for row, number in enumerate(numbers):
      if number in self._pictures:
        found[row] = self._pictures[number]
    return found

  def video(self, start: int = 0, stop: int | None = None) -> Float32[np.ndarray, "n H W 3"]:
    """Returns the same in [-1, 1]; 0 where none is given."""
    numbers = range(self.shape[0])[start:stop]
    found = np.zeros((len(numbers), *self.shape[1:]), np.float32)
    for row, number in enumerate(numbers):
      if number in self._pictures:
        found[row] = image_lib.to_pixels(self._pictures[number])
    return found
