from fractions import Fraction

from absl import logging
import av
import numpy as np
import pytest
import soundfile

from emv3_jax.conditioning import audio
from emv3_jax.errors import InputError
from emv3_jax.variants.preview import PREVIEW
from tests import golden_data


def write(tmp_path, samples, rate, subtype="FLOAT"):
  soundfile.write(tmp_path / "a.wav", samples, rate, subtype)
  return tmp_path / "a.wav"


def test_loading_matches_golden():
  case = golden_data.load("wav2vec", "frontend")
  voice = audio.load_voice(golden_data.path("wav2vec", "stereo_44k1.wav"))
  assert voice.samples.dtype == np.float32 and voice.seconds == 1.0
  golden_data.check("audio at 16 kHz", voice.samples, case["librosa_16k"], 1e-6)


@pytest.mark.parametrize("rate, channels", [(8_000, 1), (96_000, 2), (16_000, 2), (22_050, 1)])
def test_any_rate_and_channels(tmp_path, rate, channels):
  time = np.arange(rate)[:, None] / rate
  sound = 0.5 * np.sin(2 * np.pi * 440 * time) * np.linspace(0.5, 1, channels)
  voice = audio.load_voice(write(tmp_path, sound, rate))
  want = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000) * np.linspace(
      0.5, 1, channels).mean()
  assert voice.samples.shape == (16000,) and voice.seconds == 1
  assert np.abs(voice.samples - want)[500:-500].max() < 1e-3


def test_length_is_rounded_up_like_librosa(tmp_path):
  voice = audio.load_voice(write(tmp_path, np.zeros(44_101), 44_100))
  assert len(voice.samples) == 16_001


def test_sound_of_a_video(tmp_path):
  with av.open(str(tmp_path / "a.mp4"), "w") as container:
    video = container.add_stream("mpeg4", rate=25)
    sound = container.add_stream("aac", rate=48_000, layout="mono")
    video.width = video.height = 32
    picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
    picture.pts, picture.time_base = 0, Fraction(1, 25)
    wave = 0.5 * np.sin(2 * np.pi * 300 * np.arange(48_000) / 48_000, dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 48_000, 0
    for stream, part in ((video, picture), (video, None), (sound, frame), (sound, None)):
      container.mux(stream.encode(part))
  voice = audio.load_voice(tmp_path / "a.mp4")
  assert voice.seconds == 1 and len(voice.samples) == 16_000
  assert np.abs(voice.samples - wave[::3])[3000:-1000].max() < 0.03


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path, value):
  sound = np.zeros((16_000, 2))
  sound[4_000:4_010, 1] = value
  with pytest.raises(InputError, match=r"10 samples.*first at 0\.250 s"):
    audio.load_voice(write(tmp_path, sound, 16_000))


@pytest.mark.filterwarnings("error")
def test_samples_beyond_all_scales_are_refused():
  sound = np.zeros((16_000, 2), np.float32)
  sound[4_000] = 1e30
  with pytest.raises(InputError, match=r"samples up to 1e\+30, while full scale is 1"):
    audio.to_voice(sound, 16_000, "voice.wav")
  sound[4_000] = 2.0 ** 31  # integers kept as floats
  assert np.isfinite(PREVIEW.waveform(audio.to_voice(sound, 16_000, "voice.wav").samples, 25)).all()


def test_shorter_than_a_latent_frame_is_refused(tmp_path):
  with pytest.raises(InputError, match=r"0\.159 s found, 0\.16 s needed"):
    audio.load_voice(write(tmp_path, np.zeros(7_055 - 30), 44_100))
  assert len(audio.load_voice(write(tmp_path, np.zeros(7_056), 44_100)).samples) == 2_560


@pytest.mark.parametrize("seconds, frames", [
    (4.04, 101), (0.28, 7), (0.16, 4), (1.0, 25), (1.0001, 26), (3.2400000000000002, 81), (0.01, 1)])
def test_num_frames(seconds, frames):
  assert audio.num_frames(seconds) == frames


def test_num_frames_is_exact_for_whole_frames_at_any_rate():
  for rate in (8_000, 11_025, 22_050, 44_100, 48_000, 96_000):
    for frames in range(4, 2_000, 7):
      exact = Fraction(frames * rate, 25)
      count = exact.numerator // exact.denominator
      assert audio.num_frames(count / rate) == frames
      assert audio.num_frames((count + 1) / rate) == frames + (count + 1 > exact)


def test_channels_that_cancel_leave_one(tmp_path, monkeypatch, rng):
  told = []
  monkeypatch.setattr(logging, "warning", lambda text, *values: told.append(text % values))
  sound = 0.1 * rng.standard_normal(16_000).astype(np.float32)
  voice = audio.load_voice(write(tmp_path, np.stack([-0.9 * sound, sound], 1), 16_000))
  np.testing.assert_array_equal(voice.samples, sound)
  assert len(told) == 1 and "cancel each other; only channel 2 of 2" in told[0]
  other = rng.standard_normal(16_000).astype(np.float32)
  for pair in (np.stack([sound, 0 * sound], 1), np.stack([sound, other], 1), np.zeros((16_000, 2))):
    voice = audio.load_voice(write(tmp_path, pair, 16_000))
    np.testing.assert_allclose(voice.samples, pair.mean(1), atol=1e-7)
  assert len(told) == 1


def test_a_voice_in_the_centre_of_six_is_as_loud(tmp_path, rng):
  surround = np.zeros((16_000, 6), np.float32)
  surround[:, 2] = sound = 0.1 * rng.standard_normal(16_000).astype(np.float32)
  voice = audio.load_voice(write(tmp_path, surround, 16_000))
  np.testing.assert_allclose(voice.samples, sound, atol=1e-6)
