"""Finding the hand: which of those that could be drawn explains the white that is seen?"""

import dataclasses
import functools

import numpy as np
from scipy.ndimage import gaussian_filter

from emv3_jax.puppets.world import wardrobe
from emv3_jax.puppets.world.canvas import SIZE, Canvas, Pose

COUNTS = (1, 2, 3, 4, 5, 6)
_LEANS = np.radians(np.arange(-32, 33, 8))
_BLURS = (0.0, 0.8, 1.3)  # pixels
_WALL = (120, 120, 120)  # what hands are blurred with
_TOP = 32  # rows above hold the whites of the eyes
_REACH = 16  # pixels from the middle of a palm to the end of anything of the hand
_MARGIN = 2 * _REACH
_SHAPE = (SIZE - _TOP + _MARGIN, SIZE + _MARGIN)


@dataclasses.dataclass(frozen=True)
class Hand:
  """The hand in each of F frames.

  Attributes:
    fingers: [F] int64, how many are held up, 1 to 6; 0 where there is no hand.
    place: [F, 2] float32 (x, y) of the palm's middle in whole pixels; 0 where there is no hand.
    lean: [F] float32, radians in steps of 8 degrees, clockwise positive; 0 where there is no hand.
  """

  fingers: np.ndarray
  place: np.ndarray
  lean: np.ndarray


def find_hand(video: np.ndarray) -> Hand:
  """The hand that is seen in each frame.

  The glove is the only white below the eyes. Hands of one to six fingers, sharp and blurred, in all
  leans, are laid over it in every place; the one that leaves the least squared difference tells
  number, lean and place.

  Args:
    video: [F, 64, 64, 3] float32 in 0..255.
  """
  white = _whiteness(video[:, _TOP:])
  hands, energy = _hands()
  fingers = np.zeros(len(video), np.int64)
  place, lean = np.zeros((len(video), 2), np.float32), np.zeros(len(video), np.float32)
  for i, seen in enumerate(white):
    if seen.sum() < 30:  # less than half a palm
      continue
    overlap = np.fft.irfft2(np.fft.rfft2(seen, _SHAPE) * hands, _SHAPE)
    left = energy - 2 * overlap
    count, turn, _, y, x = np.unravel_index(left.argmin(), left.shape)
    fingers[i], lean[i] = COUNTS[count], _LEANS[turn]
    # Places above and left of the window have wrapped around.
    place[i] = [(at + _REACH) % side - _REACH for at, side in zip((x, y), _SHAPE[::-1], strict=True)]
    place[i, 1] += _TOP
  return Hand(fingers, place, lean)


def _whiteness(pixels: np.ndarray) -> np.ndarray:
  """0 for any colour, 1 for the glove's white: [..., 3] float32 in 0..255 to [...]."""
  return np.clip((pixels.min(-1) - 165) / 80, 0, 1)


@functools.cache
def _hands() -> tuple[np.ndarray, np.ndarray]:
  """Spectra of all hands [counts, leans, blurs, ...], and how much of each is in view anywhere.

  The second is [counts, leans, blurs, 64, 96]; positions wrap around, so that a margin stands for
  hands partly outside the picture.
  """
  shapes = np.zeros((len(COUNTS), len(_LEANS), len(_BLURS), *_SHAPE), np.float32)
  for i, count in enumerate(COUNTS):
    for j, lean in enumerate(_LEANS):
      canvas = Canvas.blank(_WALL)
      wardrobe.draw_hand(canvas, count, Pose((_REACH, _REACH), float(lean)))
      hand = canvas.picture()[:2 * _REACH, :2 * _REACH].astype(np.float32)
      for k, blur in enumerate(_BLURS):
        shapes[i, j, k, :2 * _REACH, :2 * _REACH] = _whiteness(
          gaussian_filter(hand, (blur, blur, 0)))
  shapes = np.roll(shapes, (-_REACH, -_REACH), (3, 4))
  hands = np.conj(np.fft.rfft2(shapes)).astype(np.complex64)
  view = np.fft.rfft2(np.ones((SIZE - _TOP, SIZE), np.float32), _SHAPE)
  energy = np.fft.irfft2(view * np.conj(np.fft.rfft2(shapes**2)), _SHAPE)
  return hands, energy.astype(np.float32)
