"""Which sampling steps run the network's blocks, and which add the residual that the last such step left.

The residual of a step is the output of the block stack minus its input. A skipped step embeds its latents, adds the
residual and runs the head. All decisions are made before the first step, on the host, from numbers that depend on
the step alone:

  teacache  the change of the time embedding's modulation e0, from one step to the next, tells by a polynomial how
            much the output changes; steps are skipped while the sum of these changes is below a threshold
  magcache  the measured ratios of the residual's magnitude, from one step to the next, are multiplied up; steps are
            skipped while the sum of the errors |1 - product| is below a threshold

All guidance branches of a step are skipped together or not at all.
"""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

from jaxtyping import Bool, Float
import numpy as np

KINDS = ("none", "teacache", "magcache")
DEGREE = 4  # of a fitted polynomial

# For e0 of the 1.3B models of Wan 2.1, highest power first, as TeaCache's authors fitted it.
WAN_POLYNOMIAL = (-5.21862437e+04, 9.23041404e+03, -5.28275948e+02, 1.36987616e+01, -4.99875664e-02)


class Limits(NamedTuple):
  """What a schedule keeps to.

  Attributes:
    threshold: the accumulated change or error, from which on a step runs.
    first: number of first steps that always run, at least 1.
    max_skips: number of steps in a row that may be skipped.
  """

  threshold: float
  first: int
  max_skips: int


def relative_changes(values: Float[np.ndarray, "steps *shape"]) -> Float[np.ndarray, "steps"]:
  """Returns mean |now - before| / mean |before| of each step; NaN for the first."""
  values = np.asarray(values, np.float32).reshape(len(values), -1)
  moved = np.abs(np.diff(values, axis=0)).mean(axis=1)
  return np.concatenate([[np.nan], moved / np.abs(values[:-1]).mean(axis=1)])


def teacache(changes: Float[np.ndarray, "steps"], polynomial: Sequence[float], limits: Limits
             ) -> Bool[np.ndarray, "steps"]:
  """Computes which steps run, by TeaCache.

  Args:
    changes: of e0, see `relative_changes`; the first is not read.
    polynomial: from a change of e0 to one of the output, highest power first.
    limits: what the schedule keeps to.

  Returns:
    True for steps that run, False for those that are skipped.
  """
  added, total, skips = np.polyval(polynomial, changes), 0.0, 0
  runs = np.ones(len(changes), bool)
  for i in range(limits.first, len(changes)):
    total += added[i]
    runs[i] = not (total < limits.threshold and skips < limits.max_skips)  # so that NaN runs
    total, skips = (0.0, 0) if runs[i] else (total, skips + 1)
  return runs


def magcache(ratios: Float[np.ndarray, "branches steps"], limits: Limits) -> Bool[np.ndarray, "steps"]:
  """Computes which steps run, by MagCache.

  A step is skipped only if the error of each of its branches is below the threshold.

  Args:
    ratios: magnitude of the residual at a step to that at the step before, of each branch; NaN where a branch does
      not run any more. Those of the first step are not read.
    limits: what the schedule keeps to.

  Returns:
    True for steps that run, False for those that are skipped.
  """
  product, error, skips = np.ones(len(ratios)), np.zeros(len(ratios)), 0
  runs = np.ones(ratios.shape[1], bool)
  for i in range(limits.first, len(runs)):
    live = ~np.isnan(ratios[:, i])
    product = np.where(live, product * ratios[:, i], product)
    error += np.where(live, np.abs(1 - product), 0)
    below = live.any() and error[live].max() < limits.threshold
    runs[i] = not (below and skips < limits.max_skips)
    skips += 1
    if runs[i]:
      product, error, skips = np.ones(len(ratios)), np.zeros(len(ratios)), 0
  return runs


def fitted(changes: Float[np.ndarray, "n"], outputs: Float[np.ndarray, "n"]) -> tuple[float, ...]:
  """Fits TeaCache's polynomial, of degree 4 or less where there are few pairs, by least squares.

  Args:
    changes: of e0.
    outputs: relative changes of the network's output at the same steps.

  Returns:
    Its coefficients, highest power first.

  Raises:
    ValueError: no pair of finite numbers.
  """
  known = np.isfinite(changes) & np.isfinite(outputs)
  if not known.any():
    raise ValueError("No pair of changes to fit a polynomial to.")
  degree = min(DEGREE, len(np.unique(np.asarray(changes)[known])) - 1)
  found = np.polynomial.Polynomial.fit(np.asarray(changes)[known], np.asarray(outputs)[known], degree)
  return tuple(map(float, found.convert().coef[::-1]))


def described(runs: Bool[np.ndarray, "steps"]) -> str:
  """Tells which steps run in one line, counted from 0, e.g. `5 of 8 steps run the network: 0-2, 5, 7`."""
  spans = []
  for _, span in itertools.groupby(enumerate(np.flatnonzero(runs)), lambda pair: pair[1] - pair[0]):
    steps = [step for _, step in span]
    spans.append(f"{steps[0]}-{steps[-1]}" if len(steps) > 1 else str(steps[0]))
  return f"{sum(map(bool, runs))} of {len(runs)} steps run the network: {', '.join(spans)}"
