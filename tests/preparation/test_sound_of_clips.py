"""Preparation and sampling hear the same of a video whose sound begins late."""

import numpy as np

from emv3_jax.io import video_files
from emv3_jax.preparation.footage import read_footage
from emv3_jax.preparation.manifest import Clip
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.sampling.inputs import read_inputs
from emv3_jax.sampling.settings import Request
from tests.io.test_sound_in_place import RATE, noise, write_film
from tests.sampling.conftest import tiny_config


def test_late_sound_stays_late(tmp_path, rng):
  path = tmp_path / "late.mp4"
  sound = noise(rng, 0.4)
  write_film(path, "flac", sound, RATE, pictures=0.1 + np.arange(20) / 25, late=0.3)
  assert video_files.read_video(path).frames.shape[0] == 20
  clip = Clip(line=1, id="a", video=path, prompt="", face_box="4,28,4,28")
  footage = read_footage(clip, PrepareConfig(frames=5, sound_frames=5, sizes=((32, 32),)))
  want = np.concatenate([np.zeros(3200, np.float32), sound[:, 0]])  # 0.2 s after the first picture
  assert np.abs(footage.voice.samples - want).max() < 1e-3
  config = tiny_config("sampling.max_frames=17")
  found = read_inputs(Request(task="lipsync", audio=path, video=path, face_box="4,28,4,28"), config,
                      config.tokenizer)
  np.testing.assert_array_equal(found.sound[0][:, 0], footage.voice.samples)
