"""Bytes from pixels, and larger pictures."""

import jax
import numpy as np

from emv3_jax.io.pixels import enlarged, to_uint8


def test_to_uint8_clamps_and_truncates():
  pixels = np.array([-2, -1, -0.99, 0, 0.5, 0.999, 1, 3], np.float32)
  np.testing.assert_array_equal(jax.jit(to_uint8)(pixels), [0, 0, 1, 127, 191, 254, 255, 255])


def test_enlarged_keeps_edges_where_they_are(rng):
  frames = np.zeros((2, 16, 8, 3), np.uint8)
  frames[:, :8, :, 0] = 200
  large = enlarged(frames, 3)
  assert large.shape == (2, 48, 24, 3) and large.dtype == np.uint8
  assert (large[:, :20, :, 0] >= 190).all() and (large[:, 28:, :, 0] <= 10).all()
  assert len(np.unique(large[0, :, 0, 0])) > 3, "the edge is smooth"
  assert enlarged(frames, 1) is frames
