"""The law of the mouth, and the sentences that ship."""

import numpy as np
import pytest
import soxr

from emv3_jax.errors import InputError
from emv3_jax.geometry import RATE
from emv3_jax.puppets.world.sentences import SPEECH_DIR, sentences, speech
from emv3_jax.puppets.world.voice import SPEECH_LEVEL, band_levels, level, mouth_curve

FRAMES = 25


def tone(pitch, size, seconds=1.0):
  return size * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)


def test_levels_are_root_mean_squares_of_the_band():
  middle = np.array([0.5])
  np.testing.assert_allclose(band_levels(tone(800, 0.3), RATE, middle), 0.3 / 2**0.5, rtol=0.01)
  assert band_levels(tone(5000, 0.3), RATE, middle) < 1e-3
  assert band_levels(tone(60, 0.3), RATE, middle) < 0.02


def test_silence_shuts_the_mouth():
  np.testing.assert_array_equal(mouth_curve(np.zeros(RATE), RATE, FRAMES), np.zeros(FRAMES))
  np.testing.assert_array_equal(mouth_curve(np.zeros(0), RATE, 3), np.zeros(3))
  faint = np.random.default_rng(0).normal(0, 0.003, RATE)
  assert not mouth_curve(faint, RATE, FRAMES).any()


def test_louder_is_wider_up_to_open():
  openings = [mouth_curve(tone(600, size), RATE, FRAMES)[-5] for size in (0.03, 0.06, 0.12, 0.5)]
  assert all(a < b for a, b in zip(openings[:-1], openings[1:], strict=True))
  assert openings[-1] == pytest.approx(1, abs=2e-3)


def test_hissing_does_not_open_it():
  assert not mouth_curve(tone(6000, 0.5), RATE, FRAMES).any()


def test_it_opens_faster_than_it_shuts_and_follows_at_once():
  burst = np.concatenate([np.zeros(RATE), tone(600, 0.5), np.zeros(RATE)])
  curve = mouth_curve(burst, RATE, 75)
  assert curve[:24].max() == 0 and curve[25] > 0.1 and curve[31] > 0.8
  assert (curve[25:50] < 0.8).sum() < (curve[50:75] > 0.2).sum()
  assert not curve[68:].any()


def test_rate_of_the_recording_does_not_matter():
  samples = speech("enus_m3_1")
  frames = len(samples) * 25 // RATE
  twice = soxr.resample(samples, RATE, 2 * RATE)
  np.testing.assert_allclose(mouth_curve(twice, 2 * RATE, frames),
                             mouth_curve(samples, RATE, frames), atol=0.06)


def test_sound_after_the_last_frame_is_ignored_and_missing_sound_is_silence():
  samples = speech("enus_m3_1")
  whole = mouth_curve(samples, RATE, 60)
  np.testing.assert_allclose(mouth_curve(samples, RATE, 20), whole[:20], atol=1e-6)
  assert not mouth_curve(samples[:RATE], RATE, 60)[40:].any()


def test_level_takes_any_loudness_to_that_of_the_world():
  samples = speech("de_m2_1")
  for gain in (0.01, 1.0, 3.0):
    times = np.arange(1, len(samples) / RATE * 100 - 1) / 100
    loud = np.quantile(band_levels(level(samples * gain, RATE), RATE, times), 0.9)
    assert loud == pytest.approx(SPEECH_LEVEL, rel=0.03)
  assert not level(np.zeros(1000), RATE).any()


def test_two_channels_are_refused():
  with pytest.raises(InputError, match="one channel"):
    mouth_curve(np.zeros((100, 2)), RATE, 3)


def test_sentences_are_all_there_and_splits_share_nothing():
  train, held_out = sentences("train"), sentences("held_out")
  for key in ("voice", "text", "name"):
    assert not {getattr(s, key) for s in train} & {getattr(s, key) for s in held_out}
  assert len({s.voice for s in train}) >= 8 and len({s.language for s in train}) >= 6
  files = {path.stem for path in SPEECH_DIR.glob("*.opus")}
  assert files == {s.name for s in train + held_out} and 60 <= len(files) <= 100
  assert sum(path.stat().st_size for path in SPEECH_DIR.iterdir()) < 3e6


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_sentence_moves_a_mouth(split):
  for spoken in sentences(split):
    samples = speech(spoken.name)
    assert samples.shape == (spoken.frames * 640,) and samples.dtype == np.float32
    assert np.abs(samples).max() < 1.2
    curve = mouth_curve(samples, RATE, spoken.frames)
    assert curve.max() > 0.6 and curve.std() > 0.12, spoken.name


def test_unknown_split():
  with pytest.raises(InputError, match="train and held_out"):
    sentences("test")
