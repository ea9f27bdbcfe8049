"""Videos of a model: what is asked of it, and when a video that was kept is taken again."""

import dataclasses

import numpy as np
import pytest

from configs import tiny
from emv3_jax.io.audio_files import read_audio
from emv3_jax.puppets.judging import samples
from emv3_jax.runtime.config import build
from emv3_jax.sampling.model import load
from emv3_jax.sampling.settings import Config
from tests.puppets.actors import clips

CONFIG = samples.sized(build(Config, tiny.get_config()))


@pytest.fixture
def asked(monkeypatch):
  """The requests that reach the model; it shows one grey picture."""
  requests = []

  def sample(model, request):
    requests.append(request)
    return dataclasses.make_dataclass("Made", ["frames"])(np.full((1, 64, 64, 3), 7, np.uint8))

  monkeypatch.setattr(samples, "sample", sample)
  return requests


def test_what_the_model_is_asked(asked):
  clip = clips(17)[0]
  actor = samples.Actor(load(config=CONFIG))
  actor.speak(clip, clip.audio, 5)
  actor.speak(clip, clip.audio, 6, picture=False)
  assert [(each.task, each.seed, each.image is None) for each in asked] == [
      ("i2v", 5, False), ("t2v", 6, True)]
  assert all(each.prompt == clip.caption for each in asked)


def test_a_video_is_made_once_by_all_that_decides_it(asked, tmp_path, monkeypatch):
  clip, other = clips(17)[:2]
  config = CONFIG

  def speak(clip=clip, sound=clip.audio, seed=0, picture=True):
    before = len(asked)
    video = samples.Actor(load(config=config), tmp_path).speak(clip, sound, seed, picture)
    assert (video == 7).all()
    return len(asked) - before

  assert speak() == 1 and speak() == 0
  assert speak(sound=other.audio) == speak(seed=1) == speak(picture=False) == speak(clip=other) == 1
  config = dataclasses.replace(CONFIG, keep_parts=False, seed=1)
  assert speak() == 0
  config = dataclasses.replace(CONFIG, sampling=dataclasses.replace(CONFIG.sampling, steps=3))
  assert speak() == 1
  config = CONFIG
  monkeypatch.setattr(samples, "weights_digest", lambda model: "others")
  assert speak() == 1


def test_wav_keeps_the_sound(tmp_path):
  sound = clips()[0].audio
  samples.write_wav(tmp_path / "sound.wav", sound)
  read, rate = read_audio(tmp_path / "sound.wav")
  assert rate == 16000 and np.abs(read[:, 0] - sound).max() < 1e-4
