"""Clips that come group by group: the same frames, as soon as they are final."""

import json
import time

import numpy as np
import pytest

import emv3_jax
from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.sampling import output
from emv3_jax.sampling.clip import sample, stream
from emv3_jax.sampling.streaming import Group, Stream, finished
from tests.sampling.test_clip import i2v


def test_the_groups_of_a_stream_are_the_clip(model, files):
  """Inputs are read at once; sampling waits until the frames are asked for."""
  steps, whole = [], sample(model, i2v(files, seconds=0.16))
  made = emv3_jax.stream(model, i2v(files, seconds=0.16), progress=lambda given: steps.append(1) or given)
  assert (made.num_frames, made.size, made.fps) == (4, (48, 48), 25) and not steps
  assert made.first_frame_seconds is None and "first_frame_seconds" not in made.report
  groups = list(made)
  assert [len(group) for group in groups] == [1, 3] and steps, "the surplus frame is dropped"
  np.testing.assert_array_equal(np.concatenate(groups), whole.frames)
  np.testing.assert_array_equal(made.latents, whole.latents)
  assert made.report["first_frame_seconds"] > 0 and made.report["fingerprint"] == whole.report["fingerprint"]
  assert made.report["seconds"].keys() == whole.report["seconds"].keys()
  with pytest.raises(InputError, match="no such file"):
    stream(model, i2v(files, audio="absent.wav"))


def test_a_stream_that_is_closed_frees_what_it_holds():
  held = []

  def groups():
    held.append(True)
    try:
      for index in range(3):
        yield Group(np.full((1, 2, 2, 3), index, np.uint8), np.zeros((1, 1, 1, 16), np.float32))
    finally:
      held.clear()

  made = Stream(finished(groups(), 3), fps=25, num_frames=3, size=(2, 2), sound=(np.zeros((1, 1)), 16000),
                describe=dict, began=time.monotonic())
  assert next(made).max() == 0 and held
  made.close()
  assert not held and not list(made)


def test_the_first_frames_are_timed_once():
  groups = (Group(np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 1, 1, 16), np.float32)) for _ in range(2))
  made = Stream(groups, fps=25, num_frames=2, size=(2, 2), sound=(np.zeros((1, 1)), 16000), describe=dict,
                began=time.monotonic() - 5)
  next(made)
  first = made.first_frame_seconds
  assert first >= 5 and list(made) and made.first_frame_seconds == first


def test_post_processing_knows_where_a_group_lies():
  groups = [Group(np.zeros((n, 2, 2, 3), np.uint8), np.zeros((1, 1, 1, 16), np.float32)) for n in (1, 4, 4)]
  seen = []
  shown = [group.frames for group in finished(groups, 4, lambda frames, begin: seen.append(begin) or frames + 1)]
  assert seen == [0, 1] and [len(frames) for frames in shown] == [1, 3, 0]
  assert np.concatenate(shown).min() == 1


def test_a_stream_is_written_as_the_clip_is(model, files, tmp_path):
  """Byte for byte as a whole clip; growing, with the same frames, sound and report."""
  request = i2v(files, seed=9)
  output.write(sample(model, request), tmp_path / "whole.mp4", save_latents=True)
  output.write(stream(model, request), tmp_path / "parts.mp4", save_latents=True)
  whole, parts = ((tmp_path / f"{name}.mp4").read_bytes() for name in ("whole", "parts"))
  assert whole == parts
  output.write(stream(model, request), tmp_path / "grown.mp4", save_latents=True, growing=True)
  assert not (tmp_path / "grown.partial.mp4").exists()
  for name in ("latents.npy", "json"):
    assert (tmp_path / f"parts.{name}").exists() and (tmp_path / f"grown.{name}").exists()
  np.testing.assert_array_equal(np.load(tmp_path / "grown.latents.npy"), np.load(tmp_path / "whole.latents.npy"))
  frames = [video_files.read_video(tmp_path / f"{name}.mp4").frames for name in ("whole", "grown")]
  np.testing.assert_array_equal(*frames)
  report = json.loads((tmp_path / "grown.json").read_text())
  assert report["video"]["bytes"] == (tmp_path / "grown.mp4").stat().st_size and report["first_frame_seconds"] > 0


def test_a_clip_stays_until_the_first_frames_of_the_next_one(model, files, tmp_path):
  output.write(sample(model, i2v(files)), tmp_path / "clip.mp4")
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

  def stopped(_):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    output.write(stream(model, i2v(files), progress=stopped), tmp_path / "clip.mp4", growing=True)
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_an_interrupt_leaves_plays(tmp_path, monkeypatch):
  """The partial file stays with all frames so far, the finished name and the report do not appear."""
  told = []
  monkeypatch.setattr(output.logging, "warning", lambda text, *values: told.append(text % values))
  frames = np.kron(np.random.default_rng(0).integers(0, 255, (40, 4, 4, 3), np.uint8), np.ones((1, 8, 8, 1), np.uint8))

  def groups():
    for begin in range(0, 24, 4):
      yield Group(frames[begin:begin + 4], np.zeros((1, 1, 1, 16), np.float32))
    raise KeyboardInterrupt

  report = {"seed": 7, "request": {}, "config": {"name": "tiny", "sampling": {"enlarge": 1}}}
  made = Stream(groups(), fps=25, num_frames=40, size=(32, 32), sound=(np.zeros((25600, 1), np.float32), 16000),
                describe=lambda: dict(report), began=time.monotonic())
  with pytest.raises(KeyboardInterrupt):
    output.write(made, tmp_path / "clip.mp4", growing=True)
  assert [path.name for path in tmp_path.iterdir()] == ["clip.partial.mp4"]
  assert told == [f"{tmp_path}/clip.partial.mp4 has the pictures so far, and plays."]
  video_files.write_video(tmp_path / "whole.mp4", frames[:24])
  played, whole = (video_files.read_video(tmp_path / f"{name}.mp4").frames for name in ("clip.partial", "whole"))
  np.testing.assert_array_equal(played, whole)


def test_a_partial_file_does_not_replace_an_input(tmp_path):
  source = tmp_path / "clip.partial.mp4"
  source.write_bytes(b"source")
  assert output.check_video_path(tmp_path / "clip.mp4", [source]) == tmp_path / "clip.mp4"
  with pytest.raises(InputError, match="clip.partial.mp4 is the input"):
    output.check_video_path(tmp_path / "clip.mp4", [source], growing=True)


def test_metrics_are_written_where_they_are_asked_for(tmp_path):
  """Of the sampled frames; those of another clip do not stay, but what is somebody else's does."""
  level = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
  report = {"seed": 7, "request": {}, "config": {"name": "tiny", "sampling": {"enlarge": 2}}}

  def made():
    groups = (Group(level[begin:begin + 4], np.zeros((1, 1, 1, 16), np.float32)) for begin in (0, 4))
    return Stream(groups, fps=25, num_frames=8, size=(32, 32), sound=(np.zeros((5120, 1), np.float32), 16000),
                  describe=lambda: dict(report), began=time.monotonic(), overlaps=[(3, 5)])

  output.write(made(), tmp_path / "clip.mp4", metrics=True)
  found = json.loads((tmp_path / "clip.curves.json").read_text())
  assert found["curves"]["luminance"] == list(range(8)) and [seam["frame"] for seam in found["seams"]] == [3, 5]
  assert (tmp_path / "clip.curves.png").stat().st_size > 1000
  output.write(made(), tmp_path / "clip.mp4")
  assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "clip.json"}
  (tmp_path / "clip.curves.json").write_text("[1]")
  output.write(made(), tmp_path / "clip.mp4")
  assert (tmp_path / "clip.curves.json").read_text() == "[1]"
