"""Schedules of step caches, on plain numbers."""

import numpy as np
import pytest

from emv3_jax.diffusion import step_caches
from emv3_jax.diffusion.step_caches import Limits

ALWAYS = Limits(threshold=1.0, first=1, max_skips=100)


def steps(text: str) -> list[bool]:
  """`x` for a step that runs, `.` for one that is skipped."""
  return [letter == "x" for letter in text]


@pytest.mark.parametrize("limits, want", [
    (ALWAYS, "x..x..x."), (ALWAYS._replace(first=4), "xxxx..x."), (ALWAYS._replace(max_skips=1), "x.x.x.x."),
    (ALWAYS._replace(threshold=0.8), "x.x.x.x."), (ALWAYS._replace(threshold=0.0), "xxxxxxxx"),
    (ALWAYS._replace(max_skips=0), "xxxxxxxx"), (ALWAYS._replace(threshold=9.0), "x.......")])
def test_teacache_adds_up_changes(limits, want):
  changes = np.array([np.nan] + [0.2] * 7)
  assert step_caches.teacache(changes, (2.0, 0.0), limits).tolist() == steps(want)  # 0.4 a step


def test_teacache_runs_where_a_change_is_no_number():
  assert step_caches.teacache(np.array([np.nan, np.nan, 0.1]), (1.0, 0.0), ALWAYS).tolist() == steps("xx.")


@pytest.mark.parametrize("limits, want", [
    # |1 - 0.9| = 0.1, with |1 - 0.81| = 0.29, with |1 - 0.729| = 0.561
    (ALWAYS._replace(threshold=0.3), "x..x..x."), (ALWAYS._replace(threshold=0.28), "x.x.x.x."),
    (ALWAYS._replace(threshold=0.6), "x...x..."), (ALWAYS._replace(threshold=0.6, max_skips=2), "x..x..x."),
    (ALWAYS._replace(threshold=0.6, first=3), "xxx...x."), (ALWAYS._replace(threshold=0.0), "xxxxxxxx")])
def test_magcache_multiplies_ratios_up(limits, want):
  ratios = np.array([[np.nan] + [0.9] * 7])
  assert step_caches.magcache(ratios, limits).tolist() == steps(want)


def test_magcache_skips_only_what_every_branch_allows():
  still, moves = [np.nan] + [1.0] * 7, [np.nan] + [0.9] * 7
  limits = ALWAYS._replace(threshold=0.3)
  assert step_caches.magcache(np.array([still]), limits).tolist() == steps("x.......")
  assert step_caches.magcache(np.array([still, moves]), limits).tolist() == steps("x..x..x.")
  moves[4:] = [np.nan] * 4  # the branch ends
  assert step_caches.magcache(np.array([still, moves]), limits).tolist() == steps("x..x....")


def test_magcache_runs_a_step_of_no_known_branch():
  assert step_caches.magcache(np.full((2, 3), np.nan), ALWAYS).tolist() == steps("xxx")


def test_relative_changes():
  got = step_caches.relative_changes(np.array([[[1.0, -3.0]], [[2.0, -3.0]], [[2.0, 0.0]]]))
  np.testing.assert_allclose(got, [np.nan, 1 / 4, 3 / 5], rtol=1e-6)


def test_fit_gives_the_polynomial_back(rng):
  changes = np.concatenate([[np.nan], rng.uniform(0, 0.2, 12)])
  want = (3.0, -2.0, 1.0, 0.5, 0.01)
  np.testing.assert_allclose(step_caches.fitted(changes, np.polyval(want, changes)), want, rtol=1e-6)


def test_fit_of_few_pairs_has_a_lower_degree():
  np.testing.assert_allclose(step_caches.fitted(np.array([0.1, 0.3, np.nan]), np.array([1.0, 2.0, 5.0])), (5.0, 0.5))
  with pytest.raises(ValueError, match="No pair"):
    step_caches.fitted(np.array([np.nan]), np.array([1.0]))


@pytest.mark.parametrize("runs, want", [
    ("xxx..x.x", "5 of 8 steps run the network: 0-2, 5, 7"), ("x", "1 of 1 steps run the network: 0")])
def test_description(runs, want):
  assert step_caches.described(np.array(steps(runs))) == want
