"""Synchrony of lips with a truth that is known: the curve of the opening of a mouth, frame by frame."""

from collections.abc import Sequence

import numpy as np

NEAR, FAR = 1, 5  # offsets, in frames, at which lips count as in time, and that are looked at


def correlation(left: np.ndarray, right: np.ndarray) -> float:
  """Pearson's r of two [n]; 0 where one of them does not change."""
  if not (np.ptp(left) and np.ptp(right)):
    return 0.0
  return float(np.corrcoef(left, right)[0, 1])


def lateness(seen: np.ndarray, true: np.ndarray) -> list[float]:
  """r of two curves [F] where the one seen is -FAR .. FAR frames late."""
  late = lambda offset: (correlation(seen[:offset], true[-offset:]) if offset < 0 else
                         correlation(seen[offset:], true[:len(true) - offset]))
  return [late(offset) for offset in range(-FAR, FAR + 1)]


def in_time(late: Sequence[float]) -> float:
  """The best r of `lateness` within NEAR frames."""
  return max(late[FAR - NEAR:FAR + NEAR + 1])
