"""Intervals of the synchrony of lips over clips whose synchrony is known."""

import numpy as np
import pytest

from emv3_jax.metrics import intervals
from emv3_jax.metrics.clip_metrics import Truth
from emv3_jax.metrics.lip_sync import correlation


def clip(frames: int, seed: int, noise: float = 1.0, late: int = 0) -> Truth:
  rng = np.random.default_rng(seed)
  true = rng.normal(size=frames + late)
  return Truth(true[:frames] + noise * rng.normal(size=frames), true[late:])


def test_an_interval_holds_r_and_is_narrower_with_more_frames():
  short, long = [clip(200, seed) for seed in range(4)], [clip(3000, seed) for seed in range(4)]
  (low, high), (near, far) = intervals.of_median_r(short), intervals.of_median_r(long)
  assert low < near < np.sqrt(0.5) < far < high and far - near < (high - low) / 2
  assert intervals.of_median_r(short) == (low, high)


def test_clips_are_drawn_too():
  """Two that follow and two that do not: their median may be near either."""
  low, high = intervals.of_median_r([clip(2000, seed, noise) for seed, noise in enumerate((0.1, 0.1, 5, 5))])
  assert low < 0.3 and high > 0.9


def test_a_mouth_that_is_a_frame_late_is_as_late_in_every_draw():
  late = clip(1000, 0, noise=0.1, late=1)
  assert abs(correlation(late.seen, late.true)) < 0.2
  early = Truth(late.true, late.seen)
  for one in (late, early):
    low, high = intervals.of_median_r([one])
    assert low == pytest.approx(high, abs=0.01) and low > 0.98


def test_a_clip_shorter_than_a_block():
  low, high = intervals.of_median_r([clip(20, 0, noise=0.0)])
  assert low == pytest.approx(1) and high == pytest.approx(1)
