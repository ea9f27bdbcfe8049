"""Bytes from pixels, and colour matching."""

import jax
import numpy as np

from emv3_jax.io.pixels import enlarged, match_colour, to_uint8
from tests import golden_data


def test_to_uint8_clamps_and_truncates():
  pixels = np.array([-2, -1, -0.99, 0, 0.5, 0.999, 1, 3], np.float32)
  np.testing.assert_array_equal(jax.jit(to_uint8)(pixels), [0, 0, 1, 127, 191, 254, 255, 255])


def test_match_colour_against_the_reference():
  case = golden_data.load("e2e", "image_io")
  matched = match_colour(case["color_transfer.src"][None], case["color_transfer.ref(first frame)"])
  error = np.abs(matched[0].astype(int) - case["color_transfer.out"])
  assert error.max() <= 1 and (error == 0).mean() > 0.95


def test_match_colour_keeps_a_frame_that_matches(rng):
  frame = rng.integers(40, 200, (16, 16, 3), dtype=np.uint8)
  matched = match_colour(np.stack([frame, frame // 2]), frame)
  assert np.abs(matched[0].astype(int) - frame).max() <= 4  # Lab in bytes is coarser than RGB
  assert np.abs(matched[1].astype(int).mean((0, 1)) - frame.mean((0, 1))).max() < 2


def test_match_colour_of_flat_frames():
  grey = np.full((1, 4, 4, 3), 90, np.uint8)
  assert np.abs(match_colour(grey, grey[0] + np.uint8(60)).astype(int) - 150).max() <= 1


def test_enlarged_keeps_edges_where_they_are(rng):
  frames = np.zeros((2, 16, 8, 3), np.uint8)
  frames[:, :8, :, 0] = 200
  large = enlarged(frames, 3)
  assert large.shape == (2, 48, 24, 3) and large.dtype == np.uint8
  assert (large[:, :20, :, 0] >= 190).all() and (large[:, 28:, :, 0] <= 10).all()
  assert len(np.unique(large[0, :, 0, 0])) > 3, "the edge is smooth"
  assert enlarged(frames, 1) is frames
