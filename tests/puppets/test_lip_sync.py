"""The judge of the small default tells puppets that speak from puppets that do not."""

import numpy as np
import pytest

from emv3_jax.puppets.judging import lip_sync, samples
from tests.puppets.actors import Actor, clips, darker, still


def judged(perform):
  """Figures of a puppeteer: from (clip, whose sound it is or None) to a video."""
  actor = Actor(lambda clip, heard, picture: perform(clip, heard), clips())
  return lip_sync.figures([lip_sync.row(shown) for shown in samples.perform(actor, clips(), text_only=0)])


def test_puppets_that_speak():
  found = judged(lambda clip, own: darker(own.frames) if own else still(clips()[0]))
  assert found["r"] > 0.95 and found["offset"] == 0
  assert found["swapped_r"] > 0.95 and found["swapped_excess"] == pytest.approx(0, abs=0.05)
  assert found["identity_ratio"] == pytest.approx(1) and found["background_ratio"] == pytest.approx(1)
  assert found["identities"] == found["vae_identities"] == 1
  assert found["silent_opening"] == pytest.approx(clips()[0].truth.opening[0], abs=0.06)


def test_puppets_that_stand_still():
  found = judged(lambda clip, own: still(clip))
  assert abs(found["r"]) < 0.2 and found["swapped_r"] < 0.2


def test_puppets_that_are_late():
  found = judged(lambda clip, own: np.concatenate([still(clip)[:3], clip.frames[:-3]]))
  assert found["offset"] == 3 and found["r"] < 0.9


def test_puppets_that_do_not_listen():
  """They speak their own sentence whatever they hear."""
  found = judged(lambda clip, own: clip.frames)
  assert found["r"] > 0.95 and found["swapped_r"] < 0.6 and found["swapped_excess"] > 0.4
  assert found["silent_opening"] > 0.1


def test_colours_that_change():
  found = judged(lambda clip, own: (clip.frames * 0.8).astype(np.uint8))
  assert found["identity_ratio"] > 3 and found["background_ratio"] > 3


def test_what_is_left_out():
  actor = Actor(lambda clip, heard, picture: clip.frames, clips())
  shown = list(samples.perform(actor, clips(), swaps=0, silences=1, text_only=0))
  assert [each.silent is not None for each in shown] == [True, False, False]
  found = lip_sync.figures([lip_sync.row(each) for each in shown])
  assert "silent_opening" in found and not {"swapped_r", "swapped_excess"} & set(found)
