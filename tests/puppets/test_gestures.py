"""Gestures are read from pixels, from sharp and from blurred ones, and stillness is calm."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emv3_jax.puppets import world
from emv3_jax.puppets.world import clips, read_gesture, readers
from emv3_jax.puppets.world.motion import motion

FRAMES = 33


def rendered(gesture, index=0):
  spec = world.clip_spec(0, index, "held_out", FRAMES)
  return world.render_clip(dataclasses.replace(spec, gesture=gesture))


@pytest.mark.parametrize("index, gesture", list(enumerate(clips.GESTURES)))
def test_gestures_are_told(index, gesture):
  clip = rendered(gesture, index)
  blurred = gaussian_filter(clip.frames.astype(np.float32), (0, 1, 1, 0)).astype(np.uint8)
  assert readers.gesture(clip.frames) == readers.gesture(blurred) == gesture


def test_every_gesture_has_an_amplitude():
  assert set(read_gesture.AMPLITUDES) | {read_gesture.CALM} == set(clips.GESTURES)


def test_a_picture_that_stands_is_calm():
  frames = np.repeat(rendered("waves").frames[:1], FRAMES, axis=0)
  assert readers.gesture(frames) == "stays calm"
  assert readers.gesture(np.full_like(frames, 128)) == "stays calm"  # no puppet at all


def test_a_clip_of_less_than_a_second_does_not_tell():
  assert readers.gesture(rendered("waves").frames[:20]) == "stays calm"


def test_the_hand_is_found_where_it_is():
  spec = dataclasses.replace(world.clip_spec(0, 0, "held_out", 25), gesture="lifts a hand")
  clip = world.render_clip(spec)
  hand, moves = readers.hand(clip.frames), motion(spec, clip.truth.opening).hand
  assert np.abs(hand.place - [pose.origin for pose in moves]).max() < 1.5
  assert np.abs(hand.lean - [pose.tilt for pose in moves]).max() < np.radians(6)
