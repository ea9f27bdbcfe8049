import numpy as np
import pytest

from emv3_jax.conditioning import framing
from emv3_jax.conditioning.face import FaceBox
from emv3_jax.conditioning.framing import Framing
from emv3_jax.conditioning.image import resize_lanczos


def circle(height, width, radius):
  rows, columns = np.ogrid[:height, :width]
  inside = (rows - height / 2 + 0.5)**2 + (columns - width / 2 + 0.5)**2 <= radius**2
  return np.repeat(inside[..., None] * np.uint8(255), 3, axis=2)


@pytest.mark.parametrize("height, width, size", [
    (256, 512, (64, 64)), (512, 256, (64, 96)), (48, 100, (128, 128)), (64, 54, (64, 64))])
def test_circles_stay_circles(height, width, size):
  """At a set size of another shape, larger or smaller than the picture."""
  frame = framing.for_sampling(height, width, size)
  seen = frame.picture(circle(height, width, min(height, width) * 0.3))[..., 0] > 127
  assert seen.shape == size and not frame.is_whole
  tall, wide = seen.any(1).sum(), seen.any(0).sum()
  assert abs(tall - wide) <= 2 and tall > 10


def test_rounding_takes_the_whole_picture(rng):
  picture = rng.integers(0, 256, (70, 90, 3), np.uint8)
  whole = framing.for_sampling(70, 90, (64, 80))
  assert whole.is_whole
  np.testing.assert_array_equal(whole.picture(picture), resize_lanczos(picture, (64, 80)))


def test_boxes_of_another_scale(rng):
  crop = Framing(100, 300, (64, 64))
  assert crop.box(FaceBox(20, 120, 220, 260, 200, 600)) == FaceBox(10, 60, 10, 30, 100, 100)
