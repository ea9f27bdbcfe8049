"""The judge of the small default tells puppets that speak from puppets that do not."""

import functools

import numpy as np
import pytest

from emv3_jax.io.audio_files import read_audio
from emv3_jax.training.parts import lip_sync


@functools.cache
def clips():
  return lip_sync.render(3)


@pytest.fixture
def judged(monkeypatch):
  """Figures of a puppeteer: from (clip, sound, whose sound it is or None) to a video."""
  monkeypatch.setattr(lip_sync, "reconstruct", lambda model, frames: darker(frames))

  def judge(perform):
    def speak(model, clip, sound):
      own = next((other for other in clips() if other.audio is sound), None)
      return perform(clip, own)

    monkeypatch.setattr(lip_sync, "speak", speak)
    return lip_sync.figures(None, clips())

  return judge


def darker(video):
  return (video * 0.96).astype(np.uint8)


def still(clip):
  return np.repeat(clip.frames[:1], len(clip.frames), axis=0)


def test_puppets_that_speak(judged):
  found = judged(lambda clip, own: darker(own.frames) if own else still(clips()[0]))
  assert found["r"] > 0.95 and found["offset"] == 0
  assert found["swapped_r"] > 0.95 and found["swapped_excess"] == pytest.approx(0, abs=0.05)
  assert found["identity_ratio"] == pytest.approx(1) and found["background_ratio"] == pytest.approx(1)
  assert found["identities"] == found["vae_identities"] == 1
  assert found["silent_opening"] == pytest.approx(clips()[0].truth.opening[0], abs=0.06)


def test_puppets_that_stand_still(judged):
  found = judged(lambda clip, own: still(clip))
  assert abs(found["r"]) < 0.2 and found["swapped_r"] < 0.2


def test_puppets_that_are_late(judged):
  found = judged(lambda clip, own: np.concatenate([still(clip)[:3], clip.frames[:-3]]))
  assert found["offset"] == 3 and found["r"] < 0.9


def test_puppets_that_do_not_listen(judged):
  """They speak their own sentence whatever they hear."""
  found = judged(lambda clip, own: clip.frames)
  assert found["r"] > 0.95 and found["swapped_r"] < 0.6 and found["swapped_excess"] > 0.4
  assert found["silent_opening"] > 0.1


def test_colours_that_change(judged):
  found = judged(lambda clip, own: (clip.frames * 0.8).astype(np.uint8))
  assert found["identity_ratio"] > 3 and found["background_ratio"] > 3


def test_what_is_left_out():
  assert lip_sync._swapped(None, clips(), 0) == {}


def test_wav_keeps_the_sound(tmp_path):
  sound = clips()[0].audio
  lip_sync.write_wav(tmp_path / "sound.wav", sound)
  read, rate = read_audio(tmp_path / "sound.wav")
  assert rate == 16000 and np.abs(read[:, 0] - sound).max() < 1e-4
