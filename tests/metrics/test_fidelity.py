"""PSNR and SSIM against their definitions."""

import math

import numpy as np
import pytest

from emv3_jax.metrics import fidelity


@pytest.fixture
def video(rng) -> np.ndarray:
  return rng.integers(20, 230, (2, 24, 20, 3), np.uint8)


def test_equal_videos(video):
  assert fidelity.psnr(video, video) == math.inf and fidelity.ssim(video, video) == pytest.approx(1)


def test_psnr_is_of_the_mean_error_of_all_frames(video):
  other = video.copy()
  other[1] += 10
  assert fidelity.psnr(other, video) == pytest.approx(10 * math.log10(255 ** 2 / 50))


def test_ssim_of_plain_pictures_compares_their_means():
  one, other = (np.full((1, 16, 16, 3), level, np.uint8) for level in (100, 140))
  constant = (0.01 * 255) ** 2
  assert fidelity.ssim(one, other) == pytest.approx(
      (2 * 100 * 140 + constant) / (100 ** 2 + 140 ** 2 + constant), rel=1e-6)


def test_ssim_sees_structure(video):
  reversed_levels = 250 - video
  assert fidelity.ssim(reversed_levels, video) < -0.5
  shifted = (video // 2 + 60).astype(np.uint8)  # the same structure at half the contrast
  assert 0.5 < fidelity.ssim(shifted, video) < 0.95
