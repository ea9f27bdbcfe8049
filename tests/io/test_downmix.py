import av
import numpy as np
import pytest
import soundfile

from emv3_jax.io import downmix
from emv3_jax.io.audio_files import read_audio


def by_ffmpeg(samples, layout, out):
  frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
  frame.sample_rate = 16_000
  return av.AudioResampler("fltp", out, 16_000).resample(frame)[0].to_ndarray().T


@pytest.mark.parametrize("layout", ["2.1", "4.0", "5.0", "5.1", "6.1", "7.1"])
def test_the_usual_mix_is_ffmpeg_s(rng, layout):
  samples = 0.1 * rng.standard_normal((256, av.AudioLayout(layout).nb_channels)).astype(np.float32)
  np.testing.assert_allclose(downmix.to_stereo(samples), by_ffmpeg(samples, layout, "stereo"),
                             atol=1e-4)
  np.testing.assert_allclose(downmix.to_mono(samples), by_ffmpeg(samples, layout, "mono")[:, 0],
                             atol=1e-4)


def test_other_places_are_mixed_as_they_are_named(tmp_path, rng):
  """Four channels round the listener, which are not the usual four."""
  samples = 0.1 * rng.standard_normal((1024, 4)).astype(np.float32)
  with av.open(str(tmp_path / "a.wav"), "w") as container:
    track = container.add_stream("pcm_f32le", rate=16_000, layout="quad")
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout="quad")
    frame.sample_rate, frame.pts = 16_000, 0
    container.mux(track.encode(frame))
    container.mux(track.encode(None))
  got, _ = read_audio(tmp_path / "a.wav")
  np.testing.assert_allclose(got, by_ffmpeg(samples, "quad", "stereo"), atol=1e-4)


def test_many_channels_without_places_are_averaged(tmp_path, rng):
  samples = 0.1 * rng.standard_normal((1024, 9)).astype(np.float32)
  soundfile.write(tmp_path / "a.wav", samples, 16_000, "FLOAT")
  got, _ = read_audio(tmp_path / "a.wav")
  np.testing.assert_allclose(downmix.to_mono(got), samples.mean(1), atol=1e-6)


def test_eight_planes_are_read(tmp_path):
  """AAC decodes to a plane for each channel, of which FFmpeg keeps eight at hand."""
  with av.open(str(tmp_path / "a.m4a"), "w") as container:
    track = container.add_stream("aac", rate=48_000, layout="7.1")
    samples = np.float32(0.05) * np.arange(8, dtype=np.float32) + np.zeros((24_000, 1), np.float32)
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout="7.1")
    frame.sample_rate, frame.pts = 48_000, 0
    for part in av.AudioResampler(track.format, "7.1", 48_000).resample(frame):
      container.mux(track.encode(part))
    container.mux(track.encode(None))
  got, _ = read_audio(tmp_path / "a.m4a")
  assert got.shape[0] == 24_000
  np.testing.assert_allclose(downmix.to_mono(got)[12_000], downmix.to_mono(samples)[0], atol=0.02)
