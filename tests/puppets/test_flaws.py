"""Flaws are noticed in clips that have them, and not in others."""

import dataclasses
import functools

import numpy as np
import pytest

from emv3_jax.puppets import world
from emv3_jax.puppets.judging import flaws
from emv3_jax.puppets.world import readers
from tests.puppets.actors import darker

SPEC = dataclasses.replace(world.clip_spec(0, 0, "held_out"), fingers=3, gesture="waves")


@functools.cache
def found(flaw=""):
  spec = dataclasses.replace(SPEC, flaw=flaw, fingers=6 if flaw == "six fingers" else SPEC.fingers)
  return flaws.row(flaws.read(darker(world.render_clip(spec).frames)), SPEC.fingers)


def test_a_clean_clip():
  assert found()["wrong_fingers"] == found()["six_fingers"] == 0
  assert found()["jerky"] == found()["drifting"] == 0


@pytest.mark.parametrize("flaw, seen", [
    ("six fingers", {"wrong_fingers", "six_fingers"}), ("jerky motion", {"jerky"}),
    ("colour drift", {"drifting"})])
def test_a_flaw_is_seen_as_what_it_is(flaw, seen):
  for name in ("wrong_fingers", "six_fingers", "jerky", "drifting"):
    assert (found(flaw)[name] > 0.9) == (name in seen), name
  assert (found(flaw)["jerk"] > 2 * found()["jerk"]) == (flaw == "jerky motion")


def test_a_finger_too_few_in_some_frames():
  frames = world.render_clip(SPEC).frames.copy()
  frames[:5] = world.render_clip(dataclasses.replace(SPEC, fingers=2)).frames[:5]
  row = flaws.row(flaws.read(frames), 3)
  assert row["wrong_fingers"] == pytest.approx(5 / 17) and row["six_fingers"] == 0


def test_drift_of_the_puppet_alone():
  """The wall keeps its colour; the readers' own measure looks nowhere else."""
  frames = world.render_clip(SPEC).frames.astype(np.float32)
  frames[:, 26:36, 22:42] += np.linspace(0, 40, len(frames))[:, None, None, None]
  frames = frames.clip(0, 255).astype(np.uint8)
  assert flaws.drift(frames) > flaws.DRIFTING and readers.drift(frames) < 1


def test_figures_are_means():
  assert flaws.figures([{"jerk": 1.0}, {"jerk": 2.0}]) == {"jerk": 1.5}
