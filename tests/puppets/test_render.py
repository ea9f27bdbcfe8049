"""Clips: what is drawn by lot, what is drawn in colour, and whether the truth tells it."""

import dataclasses
import functools
import itertools
import json

import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io.video_files import read_video
from emv3_jax.puppets import world
from emv3_jax.puppets.world import canvas, clips, face, identities, palette, readers
from emv3_jax.puppets.world.mp4 import write_mp4s
from emv3_jax.puppets.world.sentences import sentences
from tests.io.metadata import metadata_of


@functools.cache
def rendered(index, split="train", **changes):
  return world.render_clip(dataclasses.replace(world.clip_spec(0, index, split), **changes))


def specs(count, split="train"):
  return [world.clip_spec(0, index, split) for index in range(count)]


def test_same_seed_and_index_same_bytes():
  spec = world.clip_spec(7, 3)
  once, again = world.render_clip(spec), world.render_clip(world.clip_spec(7, 3))
  np.testing.assert_array_equal(once.frames, again.frames)
  np.testing.assert_array_equal(once.audio, again.audio)
  assert once.caption == again.caption
  assert world.clip_spec(7, 4) != spec != world.clip_spec(8, 3)


def test_shapes():
  clip = world.render_clip(world.clip_spec(0, 0, frames=5))
  assert clip.frames.shape == (5, 64, 64, 3) and clip.frames.dtype == np.uint8
  assert clip.audio.shape == (5 * 640,) and clip.audio.dtype == np.float32
  assert clip.truth.opening.shape == (5,)
  assert clip.truth.face_box.shape == clip.truth.mouth_box.shape == (5, 4)


def test_splits_share_no_puppet_and_no_sentence():
  train, held_out = specs(200), specs(200, "held_out")
  assert {s.identity for s in train} == set(world.TRAIN)
  assert {s.identity for s in held_out} == set(world.HELD_OUT)
  spoken = {s.name for s in sentences("held_out")}
  assert {s.sentence for s in held_out} == spoken
  assert not {s.sentence for s in train} & spoken


def test_the_crowd_is_every_pair_of_skin_and_hair_but_the_held_out_ones():
  pair = lambda identity: (identity.skin, identity.hair)
  pairs, held_out = set(map(pair, world.CROWD)), set(map(pair, world.HELD_OUT))
  assert len(pairs) == len(world.CROWD) == 38 and not pairs & held_out
  assert pairs | held_out == set(itertools.product(palette.SKIN, palette.HAIR))
  crowd = specs(500, "crowd")
  assert {s.identity for s in crowd} == set(world.CROWD)
  assert not {s.sentence for s in crowd} & {s.name for s in sentences("held_out")}
  assert any(s.flaw for s in crowd) and any(not s.sentence for s in crowd)


def test_the_caption_of_a_mixed_puppet_tells_nothing_of_its_skin():
  """Of the crowd it tells the skin: hair, its shape and what is worn are those of one puppet alone."""
  told = lambda identity: (identity.hair, identity.hair_style, identity.accessory)
  skins = {name: {} for name in ("crowd", "mixed")}
  for name, known in skins.items():
    for spec in specs(3000, name):
      known.setdefault(told(spec.identity), set()).add(spec.identity.skin)
  several = {name: np.mean([len(seen) > 1 for seen in known.values()]) for name, known in skins.items()}
  assert several["crowd"] < 0.2 and several["mixed"] > 0.95 and len(skins["mixed"]) == 7 * 7 * 4
  pairs = {(s.identity.skin, s.identity.hair) for s in specs(500, "mixed")}
  assert pairs == {(puppet.skin, puppet.hair) for puppet in world.CROWD}
  assert all(identities.BY_NAME[s.identity.name].skin == s.identity.skin for s in specs(50, "mixed"))


def test_a_fifth_of_training_is_flawed_and_says_so():
  train = specs(2000)
  flawed = [s for s in train if s.flaw]
  assert 0.17 < len(flawed) / len(train) < 0.23
  assert {s.flaw for s in flawed} == set(clips.FLAWS)
  words = {"six fingers": "six fingers", "jerky motion": "jerky motion",
           "colour drift": "drifting colours"}
  for spec in train:
    told = world.caption(spec)
    assert [flaw for flaw, word in words.items() if word in told] == [spec.flaw] * bool(spec.flaw)
    assert (spec.fingers == 6) == (spec.flaw == "six fingers")
  assert not any(s.flaw or not s.sentence for s in specs(200, "held_out"))


def test_captions_name_what_is_seen():
  for spec in specs(100):
    told = world.caption(spec)
    for word in (f"{spec.clothes} {spec.garment}", f"{spec.background} wall", spec.gesture,
                 clips._NUMBERS[spec.fingers] + " finger", spec.identity.hair):
      assert word in told, (word, told)


def test_mouth_is_the_only_thing_in_its_colour():
  for index in range(8):
    clip = rendered(index, flaw="", fingers=3)
    near = np.abs(clip.frames.astype(int) - palette.MOUTH).max(-1) < 48
    for i, (top, bottom, left, right) in enumerate(clip.truth.mouth_box):
      outside = near[i].copy()
      outside[top:bottom, left:right] = False
      assert not outside.any()
      assert near[i].any() == (clip.truth.opening[i] > 0.12) or clip.truth.opening[i] < 0.2


def test_area_of_the_mouth_is_proportional_to_the_opening():
  for opening in (0.2, 0.5, 1.0):
    board = canvas.Canvas.blank((0, 0, 0))
    upper, lower = face.mouth_outline(opening)
    board.fill(np.concatenate([upper, lower[::-1]]) + 32, (255, 255, 255))
    area = board.picture()[..., 0].sum() / 255
    assert area == pytest.approx(opening * face.mouth_area(), rel=0.02)


def test_mouth_is_16_to_20_pixels_wide_and_in_the_face():
  clip = rendered(1)
  for box, around in zip(clip.truth.mouth_box, clip.truth.face_box, strict=True):
    assert 16 <= box[3] - box[2] <= 22
    assert around[0] < box[0] < box[1] <= around[1] and around[2] < box[2] < box[3] < around[3]


def test_silent_clip():
  clip = rendered(2, sentence="", start=0)
  assert not clip.audio.any() and not clip.truth.opening.any()
  assert "is silent" in clip.caption


def test_a_window_shows_what_the_whole_sentence_shows():
  name = sentences("train")[0].name
  whole = rendered(0, sentence=name, start=0, frames=40)
  part = rendered(0, sentence=name, start=12, frames=17)
  np.testing.assert_allclose(part.truth.opening, whole.truth.opening[12:29], atol=1e-6)
  np.testing.assert_array_equal(part.audio, whole.audio[12 * 640:29 * 640])
  early = rendered(0, sentence=name, start=-4, frames=17)
  assert not early.audio[:4 * 640].any()
  np.testing.assert_array_equal(early.audio[4 * 640:], whole.audio[:13 * 640])


def test_filling_is_exact():
  board = canvas.Canvas.blank((0, 0, 0))
  board.fill(canvas.ellipse(30.3, 20.6, 9, 5, 400), (255, 255, 255))
  picture = board.picture()[..., 0] / 255
  assert picture.sum() == pytest.approx(np.pi * 45, rel=0.01)
  y, x = np.mgrid[:64, :64] + 0.5
  assert (picture * x).sum() / picture.sum() == pytest.approx(30.3, abs=0.05)
  assert (picture * y).sum() / picture.sum() == pytest.approx(20.6, abs=0.05)
  board.fill(canvas.ellipse(90, 90, 9, 9), (9, 9, 9))  # outside: nothing happens
  np.testing.assert_array_equal(board.picture()[..., 0] / 255, picture)


def test_mp4s_and_their_manifest(tmp_path):
  manifest = world.write_mp4s(tmp_path, seed=1, count=2, split="held_out", first=3)
  rows = [json.loads(line) for line in manifest.read_text().splitlines()]
  assert [row["id"] for row in rows] == ["held_out_00003", "held_out_00004"]
  clip = world.render_clip(world.clip_spec(1, 3, "held_out"))
  video = read_video(tmp_path / rows[0]["video"])
  assert np.abs(video.frames.astype(int) - clip.frames).mean() < 6
  assert np.corrcoef(readers.opening(video.frames), clip.truth.opening)[0, 1] > 0.97
  assert metadata_of(tmp_path / rows[0]["video"])["synthetic"] is True
  assert rows[0]["prompt"] == clip.caption
  np.testing.assert_allclose(rows[0]["truth"]["opening"], clip.truth.opening)
  for name in ("face_box", "mouth_box"):
    np.testing.assert_array_equal(rows[0][name], getattr(clip.truth, name))


def test_folders_that_mp4s_cannot_go_to(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(InputError, match="Output folder gs://b/puppets is an address"):
    write_mp4s("gs://b/puppets", count=1)
  with pytest.raises(InputError, match="file cannot be made: File exists"):
    write_mp4s(tmp_path / "file", count=1)


def test_bad_requests():
  with pytest.raises(InputError, match="train, held_out"):
    world.clip_spec(0, 0, "test")
  with pytest.raises(InputError, match="one frame"):
    world.clip_spec(0, 0, frames=0)
  with pytest.raises(InputError, match="no sentence"):
    world.render_clip(dataclasses.replace(world.clip_spec(0, 0), sentence="nobody"))
