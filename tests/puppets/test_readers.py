"""Readers get the truth back from pixels, from perfect and from spoilt ones."""

import dataclasses
import functools
import io

import numpy as np
from PIL import Image
import pytest
from scipy.ndimage import gaussian_filter

from emv3_jax.errors import InputError
from emv3_jax.puppets import world
from emv3_jax.puppets.world import clips, palette, readers
from emv3_jax.puppets.world.identities import BY_NAME

CLIPS = [("train", 0), ("train", 2), ("train", 5), ("train", 11),
         ("held_out", 0), ("held_out", 1), ("held_out", 2), ("held_out", 5),
         ("crowd", 0), ("crowd", 3)]
NAMES = ("identity", "clothes", "background", "pattern", "fingers", "flaw")


@functools.cache
def rendered(split, index, flaw=None):
  spec = world.clip_spec(21, index, split)
  if flaw is not None:
    fingers = 6 if flaw == "six fingers" else min(spec.fingers, 4)
    spec = dataclasses.replace(spec, flaw=flaw, fingers=fingers)
  return world.render_clip(spec)


def as_jpeg(video, quality=60, noise=8.0):
  """Every frame noisy, then through JPEG with halved colour resolution."""
  rng = np.random.default_rng(0)
  frames = []
  for frame in video:
    noisy = np.clip(frame + rng.normal(0, noise, frame.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=quality, subsampling=2)
    frames.append(np.asarray(Image.open(file)))
  return np.stack(frames)


def blurred(video, width=1.0):
  return gaussian_filter(video.astype(np.float32), (0, width, width, 0)).astype(np.uint8)


def check_names(reading, truth):
  assert {name: getattr(reading, name) for name in NAMES} == {
    name: getattr(truth, name) for name in NAMES}


@pytest.mark.parametrize("split, index", CLIPS)
def test_renders_are_read_exactly(split, index):
  clip = rendered(split, index)
  reading = readers.read(clip.frames)
  check_names(reading, clip.truth)
  np.testing.assert_allclose(reading.opening, clip.truth.opening, atol=0.06)
  assert (readers.fingers(clip.frames) == clip.truth.fingers).mean() > 0.9


@pytest.mark.parametrize("spoil", [as_jpeg, blurred])
@pytest.mark.parametrize("split, index", CLIPS)
def test_spoilt_renders_are_read(split, index, spoil):
  clip = rendered(split, index)
  reading = readers.read(spoil(clip.frames))
  check_names(reading, clip.truth)
  if clip.truth.opening.std() > 0.05:
    assert np.corrcoef(reading.opening, clip.truth.opening)[0, 1] >= 0.95
  np.testing.assert_allclose(reading.opening, clip.truth.opening, atol=0.2)


@pytest.mark.parametrize("flaw", clips.FLAWS)
@pytest.mark.parametrize("spoil", [lambda video: video, as_jpeg])
def test_flaws_are_seen(flaw, spoil):
  for index in (0, 1):
    clip = rendered("train", index, flaw)
    assert readers.read(spoil(clip.frames)).flaw == flaw


def test_shut_mouths_are_read_as_shut():
  spec = dataclasses.replace(world.clip_spec(21, 0), sentence="", start=0)
  assert readers.opening(world.render_clip(spec).frames).max() == 0


@pytest.mark.parametrize("fingers", [1, 2, 3, 4, 6])
def test_fingers_in_either_hand(fingers):
  for side in (-1, 1):
    spec = dataclasses.replace(world.clip_spec(21, 5), fingers=fingers, hand_side=side,
                               gesture="waves", flaw="")
    assert (readers.fingers(world.render_clip(spec).frames) == fingers).mean() > 0.9


def test_no_hand_no_fingers():
  np.testing.assert_array_equal(readers.fingers(np.full((2, 64, 64, 3), 90, np.uint8)), [0, 0])


def test_colours_are_those_of_the_palette():
  clip = rendered("held_out", 1, "")
  seen = readers.colours(clip.frames)
  who = BY_NAME[clip.truth.identity]
  assert seen.skin.shape == (17, 3)
  np.testing.assert_allclose(np.median(seen.skin, 0), palette.SKIN[who.skin], atol=3)
  np.testing.assert_allclose(np.median(seen.hair, 0), palette.HAIR[who.hair], atol=12)
  np.testing.assert_allclose(np.median(seen.clothes, 0), palette.CLOTHES[clip.truth.clothes],
                             atol=3)


def test_head_track_follows_the_head():
  clip = rendered("train", 0, "jerky motion")
  boxes = clip.truth.face_box.astype(float)
  track = readers.head_track(clip.frames)
  for axis, columns in ((0, (2, 3)), (1, (0, 1))):
    centre = boxes[:, columns].mean(1)
    assert np.corrcoef(track[:, axis], centre)[0, 1] > 0.9


def test_other_arrays_are_refused():
  with pytest.raises(InputError, match="uint8"):
    readers.read(np.zeros((2, 64, 64, 3), np.float32))
  with pytest.raises(InputError, match="64, 64, 3"):
    readers.opening(np.zeros((2, 32, 32, 3), np.uint8))
