import numpy as np

from emv3_jax.sampling import lipsync


def test_paste_keeps_the_source_outside_and_the_new_picture_inside(rng):
  new, old = (rng.integers(0, 256, (2, 64, 64, 3), np.uint8) for _ in range(2))
  mouth = np.zeros((2, 64, 64), bool)
  mouth[0, 20:44, 16:48] = True
  mouth[1, 24:48, 16:48] = True
  pasted = lipsync.paste(new, old, mouth)
  assert np.array_equal(pasted[~mouth], old[~mouth])
  assert np.array_equal(pasted[0, 28:36, 26:38], new[0, 28:36, 26:38])
  weight = lipsync.feathered(mouth[0], 4.0)
  assert ((weight > 0.05) & (weight < 0.95)).sum() > 100, "the seam is soft"
  assert np.all(weight[~mouth[0]] == 0)
