import numpy as np

from emv3_jax.tasks import pasting


def test_paste_keeps_the_source_outside_and_the_new_picture_inside(rng):
  new, old = (rng.integers(0, 256, (2, 64, 64, 3), np.uint8) for _ in range(2))
  mouth = np.zeros((2, 64, 64), bool)
  mouth[0, 20:44, 16:48] = True
  mouth[1, 24:48, 16:48] = True
  pasted = pasting.paste(new, old, mouth)
  assert np.array_equal(pasted[~mouth], old[~mouth])
  assert np.array_equal(pasted[0, 28:36, 26:38], new[0, 28:36, 26:38])
  weight = pasting.feathered(mouth[0], 4.0)
  assert ((weight > 0.05) & (weight < 0.95)).sum() > 100, "the seam is soft"
  assert np.all(weight[~mouth[0]] == 0)


def _square(side: int) -> np.ndarray:
  """A region of half the side in the middle of a picture."""
  mouth = np.zeros((1, side, side), bool)
  mouth[:, side // 4:3 * side // 4, side // 4:3 * side // 4] = True
  return mouth


def test_the_seam_lies_inside_the_region():
  mouth = _square(64)[0]
  weight = pasting.feathered(mouth, 4.0)
  assert weight[16, 32] < 0.1 < 0.4 < weight[20, 32] < 0.6 < 0.99 < weight[32, 32]


def test_the_seam_grows_with_the_picture():
  soft = {}
  for side in (64, 512):
    white = np.full((1, side, side, 3), 255, np.uint8)
    pasted = pasting.paste(white, 0 * white, _square(side))[0, side // 2, :side // 2, 0]
    soft[side] = ((pasted > 12) & (pasted < 243)).sum()
  assert soft[512] >= 4 * soft[64]


def test_mixed_pixels_are_rounded():
  new, old = (np.full((1, 64, 64, 3), level, np.uint8) for level in (200, 199))
  mouth = _square(64)
  weight = pasting.feathered(mouth[0], 1.0)
  assert ((weight > 0.6) & (weight < 0.9)).any()
  pasted = pasting.paste(new, old, mouth)[0, ..., 0]
  np.testing.assert_array_equal(pasted, np.where(weight > 0.5, 200, 199))


def test_pasting_looks_at_the_region_alone_and_gives_the_same(rng):
  new, old = (rng.integers(0, 256, (8, 80, 96, 3), np.uint8) for _ in range(2))
  mouth = np.zeros((8, 80, 96), bool)
  for region, (y, x) in zip(mouth, rng.integers(-10, 80, (8, 2)), strict=True):  # some reach over an edge
    region[max(0, y):y + 30, max(0, x):x + 34] = True
  mouth[3] = False
  whole = []
  for index in range(8):
    weight = pasting.feathered(mouth[index], 1.25)[..., None]
    whole.append(np.round(weight * new[index] + (1 - weight) * old[index]).astype(np.uint8))
  np.testing.assert_array_equal(pasting.paste(new, old, mouth), np.stack(whole))
