"""What the audio encoder is given, and the windows of its features, against the reference's."""

import numpy as np
import pyloudnorm
import pytest
from transformers import Wav2Vec2FeatureExtractor

from emv3_jax.variants.flash import FLASH
from emv3_jax.variants.preview import PREVIEW
from tests import golden_data


def tokens(samples):
  """Frames that wav2vec2's convolutions make of `samples`."""
  for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True):
    samples = (samples - kernel) // stride + 1
  return samples


def test_loudness_matches_golden():
  case = golden_data.load("wav2vec", "frontend")
  want = case["loudness_normalised"]
  golden_data.check("loudness", FLASH.normalise(case["librosa_16k"]), want, 1e-6)
  golden_data.check("loudness", FLASH.waveform(case["librosa_16k"], 25), want, 1e-6)
  cut = FLASH.waveform(case["librosa_16k"], 9)
  np.testing.assert_array_equal(cut, FLASH.waveform(case["librosa_16k"], 25)[:9 * 640])
  padded = FLASH.waveform(case["librosa_16k"], 29)
  assert len(padded) == 29 * 640 and not padded[16000:].any()


@golden_data.cases("wav2vec", "*.preview")
def test_preview_normalisation_matches_golden(name):
  case = golden_data.load("wav2vec", name)
  raw, want = case["in.audio_raw"], case["in.input_values"][0]
  got = PREVIEW.waveform(raw, 25)
  golden_data.check("preview waveform", got[:len(raw)], want, 1e-6)
  assert len(got) == PREVIEW.num_samples(25) and not got[len(raw):].any()


@pytest.mark.parametrize("normalise", [True, False])
def test_preview_waveform_is_the_feature_extractor_s(rng, normalise):
  samples = (0.1 * rng.standard_normal(16_000) + 0.05).astype(np.float32)
  library = Wav2Vec2FeatureExtractor(do_normalize=normalise)
  want = library(samples, sampling_rate=16_000).input_values[0]
  got = PREVIEW.waveform(samples, 25, normalise)
  np.testing.assert_allclose(got[:16_000], want, rtol=0, atol=1e-6)
  assert np.array_equal(got[:16_000], samples) is not normalise
  np.testing.assert_array_equal(FLASH.waveform(samples, 25, normalise), FLASH.waveform(samples, 25))


def test_token_counts_match_golden():
  counts = golden_data.load("wav2vec", "lengths").meta["samples->frames"]
  assert {str(n): tokens(int(n)) for n in counts} == counts
  for frames in (1, 5, 81, 113, 2001):
    length = PREVIEW.num_samples(frames)
    assert (tokens(length), tokens(length - 1)) == (2 * frames, 2 * frames - 1)


def test_silence_is_fine():
  silence = np.zeros(16_000, np.float32)
  assert not PREVIEW.waveform(silence, 25).any()
  assert not FLASH.waveform(silence, 25).any()


def test_whole_clip_is_measured_before_it_is_cut(rng):
  samples = np.concatenate([rng.standard_normal(8_000), 4 + np.zeros(8_000)]).astype(np.float32)
  cut = PREVIEW.waveform(samples, 5)
  assert cut.mean() < -0.5  # the loud second half, which is cut away, set the mean
  loud = FLASH.waveform(samples, 5)
  np.testing.assert_array_equal(loud, FLASH.waveform(samples, 25)[:len(loud)])


def test_loudness_target_and_its_exceptions(rng):
  noise = (0.01 * rng.standard_normal(16_000)).astype(np.float32)
  louder = FLASH.normalise(noise)
  assert pyloudnorm.Meter(16_000).integrated_loudness(louder) == pytest.approx(-23, abs=1e-3)
  np.testing.assert_array_equal(FLASH.normalise(noise[:6_000]), noise[:6_000])
  faint = noise * np.float32(1e-6)
  np.testing.assert_array_equal(FLASH.normalise(faint), faint)


def test_flash_length_follows_the_reference_arithmetic():
  assert len(FLASH.waveform(np.zeros(100, np.float32), 201)) == 201 * 640 - 1
  assert len(FLASH.waveform(np.zeros(100, np.float32), 81)) == 81 * 640


def test_flash_windows_repeat_the_ends():
  features = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
  got = FLASH.windows(features)
  assert got.shape == (6, 5, 2, 3)
  np.testing.assert_array_equal(got[..., 0, 0], [
      [0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 5],
      [3, 4, 5, 5, 5]])
