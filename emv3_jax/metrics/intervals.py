"""Intervals of the synchrony of lips over several clips, by drawing clips and pieces of them again and again."""

from collections.abc import Sequence

import numpy as np

from emv3_jax.metrics import lip_sync
from emv3_jax.metrics.clip_metrics import Truth

BLOCK = 65  # frames that are drawn together: neighbours are not independent
SHARE = 0.9  # of the draws, which lie within the interval


def of_median_r(clips: Sequence[Truth], draws: int = 300, seed: int = 0) -> tuple[float, float]:
  """Computes the interval of the median r of clips (`clip_metrics.measure`), which has SHARE of the draws.

  A draw takes as many clips with replacement, and in each as many blocks of BLOCK frames, with replacement too. The
  mouth of a clip is as late in every draw as in the whole clip.

  Args:
    clips: at least one, each of at least 3 frames.
    draws: number of draws.
    seed: of the draws.
  """
  rng = np.random.default_rng(seed)
  pairs = [_in_time(clip) for clip in clips]
  drawn = [float(np.median([_draw(rng, *pairs[index]) for index in rng.integers(len(pairs), size=len(pairs))]))
           for _ in range(draws)]
  low, high = np.quantile(drawn, [(1 - SHARE) / 2, (1 + SHARE) / 2])
  return float(low), float(high)


def _in_time(clip: Truth) -> tuple[np.ndarray, np.ndarray]:
  """Shifts both curves to the offset at which they fit best."""
  late = lip_sync.lateness(clip.seen, clip.true)
  offset = max(range(-lip_sync.NEAR, lip_sync.NEAR + 1), key=lambda offset: late[lip_sync.FAR + offset])
  frames = len(clip.true)
  return clip.seen[max(offset, 0):frames + min(offset, 0)], clip.true[max(-offset, 0):frames - max(offset, 0)]


def _draw(rng: np.random.Generator, seen: np.ndarray, true: np.ndarray) -> float:
  length = min(BLOCK, len(true))
  starts = rng.integers(len(true) - length + 1, size=-(-len(true) // length))
  frames = (starts[:, None] + np.arange(length)).ravel()[:len(true)]
  return lip_sync.correlation(seen[frames], true[frames])
