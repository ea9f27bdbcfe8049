from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from emv3_jax.errors import InputError
from emv3_jax.io import audio_files
from emv3_jax.io.audio_files import read_audio
from tests import golden_data

RATE = 16_000


def tone(seconds=1.0, channels=1, rate=RATE):
  time = np.arange(round(seconds * rate)) / rate
  pitches = 220 * np.arange(1, channels + 1)
  return (0.5 * np.sin(2 * np.pi * time[:, None] * pitches)).astype(np.float32)


def encode(file, codec, samples, rate=RATE):
  """Writes `samples` [n, channels] with PyAV; an .mp4 gets a black video too."""
  with av.open(str(file), "w") as container:
    video = container.add_stream("mpeg4", rate=25) if file.suffix == ".mp4" else None
    if codec:
      layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
      sound = container.add_stream(codec, rate=rate, layout=layout)
    if video:
      video.width = video.height = 32
      for index in range(25):
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, 25)
        container.mux(video.encode(frame))
      container.mux(video.encode())
    if codec:
      frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp",
                                         layout=layout)
      frame.sample_rate, frame.pts = rate, 0
      for part in av.AudioResampler(sound.format, layout, rate).resample(frame):
        container.mux(sound.encode(part))
      container.mux(sound.encode())


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("rate, channels", [(8_000, 1), (96_000, 2), (44_100, 3)])
def test_wav_equals_soundfile(tmp_path, rng, subtype, rate, channels):
  file = tmp_path / "a.wav"
  soundfile.write(file, rng.uniform(-1, 1, (rate // 4, channels)), rate, subtype)
  want, _ = soundfile.read(file, dtype="float32", always_2d=True)
  got, got_rate = read_audio(file)
  assert got_rate == rate and got.dtype == np.float32
  np.testing.assert_array_equal(got, want)


def test_golden_wav_equals_soundfile():
  file = golden_data.path("wav2vec", "stereo_44k1.wav")
  want, rate = soundfile.read(file, dtype="float32")
  got, got_rate = read_audio(file)
  assert got_rate == rate
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name, codec, channels", [
    ("a.mp3", "libmp3lame", 1), ("a.mp3", "libmp3lame", 2), ("a.m4a", "aac", 2),
    ("a.flac", "flac", 2), ("a.mka", "aac", 1)])
def test_containers_keep_the_sound(tmp_path, name, codec, channels):
  want = tone(1.0, channels)
  encode(tmp_path / name, codec, want)
  got, rate = read_audio(tmp_path / name)
  assert rate == RATE and got.shape[1] == channels
  assert 0 <= len(got) - len(want) <= (1024 if name == "a.mka" else 0)
  middle = slice(4000, 12000)
  assert np.abs(got[middle] - want[middle]).max() < 0.03


def test_sound_of_a_video_is_used(tmp_path):
  encode(tmp_path / "a.mp4", "aac", tone(0.8))
  got, rate = read_audio(tmp_path / "a.mp4")
  assert (len(got), rate) == (0.8 * RATE, RATE)
  assert np.abs(got[4000:8000] - tone(0.8)[4000:8000]).max() < 0.03


def test_video_without_sound_is_refused(tmp_path):
  encode(tmp_path / "a.mp4", None, None)
  with pytest.raises(InputError, match="no sound track, only: video"):
    read_audio(tmp_path / "a.mp4")


@pytest.mark.parametrize("name, codec", [
    ("a.wav", "pcm_s16le"), ("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.flac", "flac"),
    ("a.mka", "aac")])
def test_truncated_at_any_place_is_refused(tmp_path, name, codec):
  encode(tmp_path / name, codec, tone(2.0))
  whole = (tmp_path / name).read_bytes()
  for share in (0.001, 0.05, 0.3, 0.6, 0.9):
    (tmp_path / name).write_bytes(whole[:int(len(whole) * share)])
    with pytest.raises(InputError, match=name):
      read_audio(tmp_path / name)


@pytest.mark.parametrize("content, found", [
    (b"", "empty"), (b"no sound at all, only text\n" * 40, "cannot be decoded")])
def test_what_is_no_sound_is_refused(tmp_path, content, found):
  (tmp_path / "a.wav").write_bytes(content)
  with pytest.raises(InputError, match=found):
    read_audio(tmp_path / "a.wav")


def test_missing_files_and_files_without_samples_are_refused(tmp_path):
  with pytest.raises(InputError, match="no such file"):
    read_audio(tmp_path / "none.wav")
  soundfile.write(tmp_path / "a.wav", np.zeros((0, 1)), RATE)
  with pytest.raises(InputError, match="without a single sample"):
    read_audio(tmp_path / "a.wav")


def test_streamed_wav_without_a_known_size_is_read(tmp_path):
  file = tmp_path / "a.wav"
  soundfile.write(file, tone(), RATE, "PCM_16")
  content = bytearray(file.read_bytes())
  content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
  file.write_bytes(content)
  assert len(read_audio(file)[0]) == RATE


def test_wav_with_latin_1_tags_is_read(tmp_path):
  file = tmp_path / "a.wav"
  soundfile.write(file, tone(), RATE, "PCM_16")
  title = b"INFOINAM" + (6).to_bytes(4, "little") + "José!".encode("latin-1") + b"\0"
  content = file.read_bytes() + b"LIST" + len(title).to_bytes(4, "little") + title
  file.write_bytes(content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:])
  assert len(read_audio(file)[0]) == RATE


def id3(comment):
  """An ID3 tag with one text frame."""
  body = b"TXXX" + (len(comment) + 1).to_bytes(4, "big") + b"\0\0\0" + comment
  return b"ID3\x04\0\0\0\0\0" + bytes([len(body)]) + body


def test_joined_mp3_are_read_whole(tmp_path):
  """Each with its tag in front: what stands between packets is no sound."""
  encode(tmp_path / "a.mp3", "libmp3lame", tone(1.0))
  one = (tmp_path / "a.mp3").read_bytes()
  (tmp_path / "a.mp3").write_bytes(one + id3(b"second") + one)
  got, rate = read_audio(tmp_path / "a.mp3")
  assert rate == RATE and 2 <= len(got) / rate < 2.2


def test_an_mp3_that_does_not_tell_its_length_may_say_info(tmp_path):
  encode(tmp_path / "a.mp3", "libmp3lame", tone(1.0))
  content = (tmp_path / "a.mp3").read_bytes()
  quiet = content.replace(b"Info", b"\0\0\0\0", 1).replace(b"Xing", b"\0\0\0\0", 1)
  assert quiet != content
  (tmp_path / "b.mp3").write_bytes(id3(b"comment\0More Info: example.org") + quiet)
  assert 1 <= len(read_audio(tmp_path / "b.mp3")[0]) / RATE < 1.2
  assert audio_files._declared_frames(id3(b"comment\0More Info: example.org") + quiet) == 0
  assert audio_files._declared_frames(content) * 576 / RATE == pytest.approx(1.0, abs=0.15)


def test_the_first_track_that_can_be_decoded_is_used(tmp_path, told):
  """As of a phone, whose first track is in a codec that nobody else has."""
  path = tmp_path / "a.mov"
  with av.open(str(path), "w") as container:
    streams = [container.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]
    for stream, level in zip(streams, (1.0, 0.5), strict=True):
      frame = av.AudioFrame.from_ndarray(level * tone(0.8).T, format="fltp", layout="mono")
      frame.sample_rate, frame.pts = RATE, 0
      for part in (frame, None):
        container.mux(stream.encode(part))
  whole = path.read_bytes()
  loud, _ = read_audio(path)
  path.write_bytes(whole.replace(b"mp4a", b"zzzz", 2).replace(b"esds", b"free", 1))
  quiet, _ = read_audio(path)
  assert len(told) == 1 and "sound track 2 of 2" in told[0]
  assert np.abs(quiet).max() == pytest.approx(np.abs(loud).max() / 2, rel=0.1)
  path.write_bytes(whole.replace(b"mp4a", b"zzzz").replace(b"esds", b"free"))
  with pytest.raises(InputError, match="codec that cannot be decoded"):
    read_audio(path)
