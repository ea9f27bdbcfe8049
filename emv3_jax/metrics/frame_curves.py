"""Curves over the frames of a clip, which come as a stream: colour, luminance, sharpness, change."""

import dataclasses

from jaxtyping import Float32, UInt8
import numpy as np

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # BT.709


@dataclasses.dataclass(frozen=True)
class Curves:
  """A value for each frame, float32; colours and their differences are levels of 0..255.

  Attributes:
    colour: [F, 3], mean red, green and blue.
    luminance: [F], mean of BT.709 luma.
    sharpness: [F], variance of the Laplacian of the luma.
    change: [F], mean absolute difference to the frame before; 0 for the first.
  """

  colour: np.ndarray
  luminance: np.ndarray
  sharpness: np.ndarray
  change: np.ndarray

  def __len__(self) -> int:
    return len(self.luminance)


class FrameCurves:
  """Collects the curves of a clip; keeps one frame."""

  def __init__(self):
    self._rows: list[tuple] = []
    self._last: np.ndarray | None = None

  def observe(self, frames: UInt8[np.ndarray, "n H W 3"]) -> None:
    """Adds the next frames."""
    for frame in frames:
      pixels = frame.astype(np.float32)
      luma = pixels @ LUMA
      change = 0.0 if self._last is None else np.abs(pixels - self._last).mean()
      self._rows.append((pixels.mean((0, 1)), luma.mean(), laplacian(luma).var(), change))
      self._last = pixels

  def curves(self) -> Curves:
    """Returns the curves of all frames so far, at least one."""
    return Curves(*(np.array(column, np.float32) for column in zip(*self._rows, strict=True)))


def laplacian(picture: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H2 W2"]:
  """Returns the sum of the four neighbours of each inner pixel less four times the pixel."""
  return (picture[:-2, 1:-1] + picture[2:, 1:-1] + picture[1:-1, :-2] + picture[1:-1, 2:]
          - 4 * picture[1:-1, 1:-1])
