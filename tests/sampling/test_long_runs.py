"""Whole runs of clips that are longer than a window, to the frames and to the written file."""

import dataclasses
import json
import resource
import time
import weakref

import numpy as np
import pytest
import soundfile

from emv3_jax.errors import InputError
from emv3_jax.io import audio_files, video_files
from emv3_jax.sampling import clip as clip_lib
from emv3_jax.sampling import output
from emv3_jax.sampling.clip import sample, stream
from emv3_jax.sampling.fingerprint import fingerprint
from emv3_jax.sampling.long_settings import LongConfig
from emv3_jax.sampling.model import load
from emv3_jax.sampling.settings import Request
from emv3_jax.sampling.streaming import Group, Stream
from tests.sampling.conftest import tiny_config

# 9 frames are three latent frames, of which neighbours share one (5 frames: two).
SMALL = ("sampling.max_frames=9", "model.transformer.num_layers=2", "model.vae.base_dim=4", "sampling.text_scale=2")


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
  """A voice of 17 video frames."""
  path = tmp_path_factory.mktemp("voice") / "voice.wav"
  at = np.arange(round(17 * 640)) / 16000
  soundfile.write(path, 0.3 * np.sin(2 * np.pi * 220 * at), 16000)
  return path


def i2v(files, voice, **changes) -> Request:
  return Request(**{"audio": voice, "image": files["image"], "prompt": "a puppet", "face_box": "8,40,8,40", **changes})


@pytest.fixture(scope="module")
def blended(files, voice):
  model = load(config=tiny_config(*SMALL, "sampling.long.overlap=5"))
  return model, sample(model, i2v(files, voice))


def with_long(model, **long):
  sampling = dataclasses.replace(model.config.sampling, long=LongConfig(overlap=5, **long))
  return load(config=dataclasses.replace(model.config, sampling=sampling))


def test_a_long_clip(blended, files, voice):
  model, clip = blended
  assert clip.frames.shape == (17, 48, 48, 3) and clip.latents.shape == (5, 6, 6, 16)
  assert np.isfinite(clip.latents).all() and clip.frames.std() > 5
  assert clip.report["long"] == {"mode": "blended", "windows": [[0, 9], [4, 9], [8, 9]]}
  np.testing.assert_array_equal(clip.frames, np.concatenate(
      [group[0] for group in model.vae_decode_groups(model._kept["vae"], np.split(clip.latents[None], 5, axis=1))]))
  timed = sample(model, i2v(files, voice, prompt="", prompts=[[0, "a puppet"], [0.5, "it nods"]]))
  np.testing.assert_array_equal(timed.latents[:2], clip.latents[:2])  # of windows with the first prompt
  assert np.abs(timed.latents[4] - clip.latents[4]).max() > 1e-4


def test_a_clip_of_one_window_does_not_depend_on_settings_of_long_clips(blended, files, voice):
  model, _ = blended
  short = i2v(files, voice, seconds=0.36)
  one, other = sample(model, short), sample(with_long(model, mode="chunked"), short)
  assert len(one.frames) == 9
  np.testing.assert_array_equal(one.latents, other.latents)
  np.testing.assert_array_equal(one.frames, other.frames)


def test_chunks_of_lipsync(blended, files, voice, tmp_path):
  model, _ = blended
  source = np.kron(np.random.default_rng(1).integers(0, 256, (17, 6, 6, 1), np.uint8), np.ones((1, 8, 8, 3), np.uint8))
  video_files.write_video(tmp_path / "source.mp4", source)
  read = video_files.read_video(tmp_path / "source.mp4").frames
  request = Request(audio=voice, video=tmp_path / "source.mp4", task="lipsync", prompt="a puppet", face_box="8,40,8,40")
  clip = sample(with_long(model, mode="chunked", match_colour=True), request)
  assert clip.frames.shape == (17, 48, 48, 3) and np.isfinite(clip.latents).all()
  assert clip.latents.std(axis=(1, 2, 3)).min() > 0.1
  np.testing.assert_array_equal(clip.frames[:, :24], read[:, :24])


def test_chunks_are_streamed_before_the_clip_is_sampled(blended, files, voice):
  model, steps = with_long(blended[0], mode="chunked"), []
  made = stream(model, i2v(files, voice), progress=lambda given: steps.append(1) or given)
  first = next(made)
  assert len(steps) == 1 and 0 < len(first) < 17
  rest = list(made)
  assert len(steps) == len(rest) + 1 > 1 and len(first) + sum(map(len, rest)) == 17
  assert made.latents.shape[0] == 5 and len(made.overlaps) == len(rest)


def test_the_waveform_is_freed_once_the_voice_is_encoded(blended, files, voice, monkeypatch):
  seen, encode = [], clip_lib.encode_features
  monkeypatch.setattr(clip_lib, "encode_features",
                      lambda model, inputs: seen.append(weakref.ref(inputs.waveform)) or encode(model, inputs))
  made = stream(blended[0], i2v(files, voice))
  next(made)
  assert seen[0]() is None and len(made.latents)


def test_fingerprints_of_long_clips(blended, files, voice):
  model, _ = blended
  of = lambda seconds=None, **long: fingerprint(with_long(model, **long), i2v(files, voice, seconds=seconds))
  assert of() == of(window=9, window_batch=4) and of(0.36) == of(0.36, mode="paper", window=9)
  others = [of(), of(0.36), *(of(**{name: value}) for name, value in (
      ("mode", "paper"), ("anchor", False), ("keep_picture", False), ("match_colour", True)))]
  assert len(set(others)) == len(others)
  assert of(mode="released") == of(mode="released", anchor=False)


@pytest.mark.parametrize("mode, seconds", [
    ("blended", 10), ("chunked", 10), ("paper", 5), ("paper_literal", 5), ("released", 5)])
def test_files_of_seconds(blended, files, tmp_path, mode, seconds):
  """Every frame and sample is there; at the borders of windows no frame is repeated, faded or out of place.

  The frames of an untrained network are noise, all of which differ by about as much."""
  frames, sound = 25 * seconds, tmp_path / "voice.wav"
  at = np.arange(640 * frames) / 16000
  soundfile.write(sound, 0.3 * np.sin(2 * np.pi * (220 * at + 9 * np.sin(2 * np.pi * at))), 16000)
  clip = stream(with_long(blended[0], mode=mode), i2v(files, sound))
  output.write(clip, tmp_path / "clip.mp4", metrics=True)
  assert len(video_files.read_video(tmp_path / "clip.mp4").frames) == frames
  samples, rate = audio_files.read_audio(tmp_path / "clip.mp4")
  assert len(samples) / rate == pytest.approx(seconds, abs=1e-3)
  found = json.loads((tmp_path / "clip.curves.json").read_text())
  assert found["frames"] == frames and len(found["seams"]) > 10 and found["median_change"] > 40
  assert not [seam for seam in found["seams"] if not 0.7 < seam["ratio"] < 1.4]


@pytest.mark.parametrize("growing, left", [(False, set()), (True, {"clip.partial.mp4"})])
def test_a_disk_that_is_full_in_the_middle_of_a_clip(tmp_path, growing, left):
  """A limit on the size of files stands for it. No finished file appears; of one that grows, what there was room for stays."""
  frames = np.random.default_rng(0).integers(0, 255, (120, 32, 32, 3), np.uint8)
  report = {"seed": 7, "request": {}, "config": {"name": "tiny", "sampling": {"enlarge": 1}}}
  groups = (Group(frames[begin:begin + 4], np.zeros((1, 1, 1, 16), np.float32)) for begin in range(0, 120, 4))
  made = Stream(groups, fps=25, num_frames=120, size=(32, 32), sound=(np.zeros((76800, 1), np.float32), 16000),
                describe=lambda: dict(report), began=time.monotonic())
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (40000, hard))
  try:
    with pytest.raises(InputError, match=r"Cannot write .*clip(.partial)?.mp4: File too large"):
      output.write(made, tmp_path / "clip.mp4", growing=growing)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert {path.name for path in tmp_path.iterdir()} == left
  assert all(path.stat().st_size == 40000 for path in tmp_path.iterdir())
