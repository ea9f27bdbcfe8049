"""PNG: phases of the steps, each with a negative prompt and a weight."""

import dataclasses

import numpy as np
import pytest

from emv3_jax.diffusion.guidance import PREVIEW, UNGUIDED, mix
from emv3_jax.diffusion.negative_phases import PHASES, Phase, check_phases, phase_by_step
from emv3_jax.errors import InputError

PLAIN = dataclasses.replace(PREVIEW, neg_scale=1.0)


def phased(*phases, **settings):
  return dataclasses.replace(PLAIN, phases=phases, **settings)


@pytest.mark.parametrize("phases, steps, want", [
    (PHASES, 5, [0, 0, 0, 1, 1]), (PHASES, 2, [0, 0]), ((Phase(),), 3, [0, 0, 0]),
    ((Phase(until=0.12), Phase()), 25, [0] * 3 + [1] * 22),
    ((Phase(until=0.25), Phase(until_step=3), Phase()), 5, [0, 0, 1, 2, 2])])
def test_the_phase_of_a_step(phases, steps, want):
  check_phases(phases)
  assert phase_by_step(phases, steps) == want
  assert [step.negative for step in phased(*phases).schedule(steps)] == want


def test_weights_of_1_are_plain_guidance_to_the_bit():
  found, plain = phased(Phase(until_step=3), Phase()).schedule(25), PLAIN.schedule(25)
  assert [step._replace(negative=0) for step in found] == list(plain)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.5])
def test_the_weight_is_of_the_text(weight, rng):
  """text + w (g - 1) (text - un) + g_a (full - text), audio guidance as ever."""
  un, text, full = velocities = rng.normal(size=(3, 7))
  for step, plain in zip(phased(Phase(weight=weight)).schedule(4), PLAIN.schedule(4), strict=True):
    g, g_a = plain.text_scale, plain.audio_scale
    run = velocities if weight else velocities[1:]
    assert (UNGUIDED in step.branches) is (weight > 0)
    np.testing.assert_allclose(mix(step.branches, run, step.text_scale, step.audio_scale),
                               text + weight * (g - 1) * (text - un) + g_a * (full - text), atol=1e-12)


@pytest.mark.parametrize("changes, message", [
    ({"weight": float("nan")}, "A phase of PNG: weight is nan; a finite number is needed."),
    ({"weight": float("inf")}, "weight is inf"), ({"weight": -0.5}, "weight is -0.5; it must be from 0 to"),
    ({"until": 1.5}, "until is 1.5; it must be above 0, at most 1"), ({"until": 0.0}, "until is 0.0"),
    ({"until_step": -1}, "until_step is -1"), ({"until": 0.5, "until_step": 3}, "until=0.5 and at until_step=3; leave"),
])
def test_phases_that_cannot_be(changes, message):
  with pytest.raises(InputError, match=message) as found:
    Phase(**changes)
  assert "\n" not in str(found.value)


@pytest.mark.parametrize("phases, message", [
    ((), "no phases; give at least one"),
    ((Phase(until_step=3), Phase(until_step=3), Phase()), "out of order: phase 1 does not end after phase 0; sort"),
    ((Phase(until=0.5), Phase(until=0.2), Phase()), "phase 1 does not end after phase 0"),
    ((Phase(), Phase(until_step=3)), "phase 1 does not end after phase 0"),
    ((Phase(), Phase()), "phase 1 does not end after phase 0"),
    ((Phase(until_step=3),), "last phase of PNG, 0, ends before the last step; leave its end out"),
])
def test_phases_that_do_not_follow_each_other(phases, message):
  with pytest.raises(InputError, match=message) as found:
    check_phases(phases)
  assert "\n" not in str(found.value)


def test_a_share_and_a_number_of_steps_are_compared_when_the_steps_are_known():
  phases = (Phase(until_step=3), Phase(until=0.2), Phase())
  assert phase_by_step(phases, 25) == [0] * 3 + [1] * 2 + [2] * 20
  with pytest.raises(InputError, match="Of 5 steps phase 1 of PNG ends after 1, phase 0 after 3; sort them"):
    phased(*phases).schedule(5)
