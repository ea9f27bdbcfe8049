"""MP4 files: what is written comes back; what is no video is refused with a reason."""

from fractions import Fraction
import resource
import struct

import av
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io.video_files import grow_video, read_video, stream_video, write_video
from tests.io.metadata import metadata_of

HEIGHT, WIDTH = 32, 48


def numbered(count: int) -> np.ndarray:
  """Flat grey frames whose level tells their index: 8 (index + 1)."""
  levels = 8 * (np.arange(count) + 1)
  return np.broadcast_to(levels[:, None, None, None], (count, HEIGHT, WIDTH, 3)).astype(np.uint8)


def indices(frames: np.ndarray) -> list[int]:
  return [round(level) for level in frames.mean((1, 2, 3)) / 8 - 1]


def decoded_sound(path) -> np.ndarray:
  with av.open(str(path)) as container:
    return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


@pytest.fixture(scope="module")
def speech():
  """One second of a chirp at 16 kHz, which correlates with itself at no other shift."""
  time = np.arange(16000) / 16000
  return (0.5 * np.sin(2 * np.pi * (100 + 900 * time) * time)).astype(np.float32)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, speech):
  """20 frames with sound."""
  path = tmp_path_factory.mktemp("clip") / "clip.mp4"
  write_video(path, numbered(20), audio=(speech, 16000), metadata={"synthetic": True, "seed": 7})
  return path


def test_frames_come_back(clip):
  video = read_video(clip)
  assert video.fps == 25 and video.frames.shape == (20, HEIGHT, WIDTH, 3)
  assert video.frames.dtype == np.uint8
  assert np.abs(video.frames.astype(int) - numbered(20)).max() <= 3


def test_colours_come_back(tmp_path):
  corners = np.array([[[230, 30, 40], [20, 200, 60]], [[30, 50, 220], [240, 230, 20]]], np.uint8)
  frame = corners.repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1)
  write_video(tmp_path / "a.mp4", iter([frame, frame]))
  found = read_video(tmp_path / "a.mp4").frames[1]
  assert np.abs(found[4::16, 6::24].astype(int) - corners).max() <= 5
  with av.open(str(tmp_path / "a.mp4")) as container:
    context = container.streams.video[0].codec_context
    assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
    assert context.pix_fmt == "yuv420p" and context.name == "h264"


def test_metadata_and_layout(clip):
  assert metadata_of(clip) == {"synthetic": True, "seed": 7}
  content = clip.read_bytes()
  assert 0 < content.find(b"moov") < content.find(b"mdat")
  assert [p.name for p in clip.parent.iterdir()] == ["clip.mp4"]


def test_the_machine_does_not_choose_the_threads(tmp_path):
  """Their number decides the bits. x264 tells it, of pictures that are large enough for them."""
  write_video(tmp_path / "a.mp4", np.zeros((1, 256, 256, 3), np.uint8))
  assert b" threads=4 " in (tmp_path / "a.mp4").read_bytes()


def test_same_input_same_bytes(clip, speech, tmp_path):
  write_video(tmp_path / "a.mp4", list(numbered(20)), audio=(speech, 16000),
              metadata={"synthetic": True, "seed": 7})
  assert (tmp_path / "a.mp4").read_bytes() == clip.read_bytes()


@pytest.mark.parametrize("rate, seconds", [(16000, 0.3), (16000, 2.0), (44100, 2.0), (8000, 0.8),
                                           (96000, 1.0), (37800, 0.5)])
def test_sound_starts_and_ends_with_the_pictures(tmp_path, rng, rate, seconds):
  """Both tracks last F / 25 s; the sound is in place, silent where it was too short."""
  spoken = np.repeat(rng.normal(size=round(seconds * 200) + 1), -(-rate // 200))
  spoken = 0.1 * np.convolve(spoken, np.hanning(rate // 100), "same")[:round(seconds * rate)]
  spoken = (spoken / np.abs(spoken).max() / 2).astype(np.float32)
  path = tmp_path / "a.mp4"
  write_video(path, numbered(20), audio=(np.stack([spoken, -spoken], axis=1), rate))
  with av.open(str(path)) as container:
    video, audio = container.streams.video[0], container.streams.audio[0]
    assert video.duration * video.time_base == Fraction(4, 5)
    assert abs(float(audio.duration * audio.time_base) - 0.8) <= 1 / audio.rate
    assert audio.start_time == video.start_time == 0 and audio.channels == 2
    assert audio.rate == (48000 if rate == 37800 else rate)
    written = audio.rate
  sound = decoded_sound(path)
  length = round(0.8 * written)
  assert length <= sound.shape[1] < length + 1024
  if written == rate:
    want = np.pad(spoken, (0, length))[:length]
    assert np.abs(sound[:, :length] - [want, -want]).max() < 0.1
    shifts = [np.sum((sound[0, 100 + k:length - 100 + k] - want[100:-100])**2) for k in range(-3, 4)]
    assert np.argmin(shifts) == 3
    assert np.abs(sound[0, len(spoken) + rate // 10:length]).max(initial=0) < 0.01


def test_sound_ends_with_the_pictures_where_samples_do_not_divide(tmp_path, speech):
  """484.85 samples a frame, 140 less in five seconds if each were cut; AAC tells lengths in 128s."""
  write_video(tmp_path / "a.mp4", [numbered(1)[0]] * 165, fps=33, audio=(np.tile(speech, 5), 16000))
  with av.open(str(tmp_path / "a.mp4")) as container:
    audio = container.streams.audio[0]
    assert abs(float(audio.duration * audio.time_base) - 5) <= 1 / 16000


def test_sound_beyond_full_scale_is_clipped(tmp_path, speech):
  write_video(tmp_path / "a.mp4", numbered(5), audio=(8 * speech, 16000))
  assert 0.9 < np.abs(decoded_sound(tmp_path / "a.mp4")).max() < 3  # AAC overshoots


def test_surround_becomes_left_and_right(tmp_path, speech):
  """A voice in the centre, as loud as it was; all channels at once do not overflow."""
  surround = np.zeros((16000, 6), np.float32)
  surround[:, 2] = speech
  write_video(tmp_path / "a.mp4", numbered(20), audio=(surround, 16000))
  sound = decoded_sound(tmp_path / "a.mp4")[:, :12800]
  assert sound.shape[0] == 2
  power = np.square(sound).sum(0).mean() / np.square(speech[:12800]).mean()
  assert power == pytest.approx(1, abs=0.03)
  write_video(tmp_path / "a.mp4", numbered(20), audio=(1.9 * speech[:, None] * np.ones(6), 16000))
  sound = decoded_sound(tmp_path / "a.mp4")
  assert np.corrcoef(sound[0, :12800], speech[:12800])[0, 1] > 0.999


def test_other_rates_take_the_latest_frame(tmp_path):
  write_video(tmp_path / "a.mp4", numbered(12), fps=30)
  assert indices(read_video(tmp_path / "a.mp4", fps=None).frames) == list(range(12))
  assert indices(read_video(tmp_path / "a.mp4", fps=15.0).frames) == [0, 2, 4, 6, 8, 10]
  assert indices(read_video(tmp_path / "a.mp4").frames) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
  assert indices(read_video(tmp_path / "a.mp4", fps=60.0, max_frames=5).frames) == [0, 0, 1, 1, 2]


def test_variable_rate(tmp_path):
  """Frames at 0, 40, 200 and 240 ms in a Matroska file, which counts milliseconds."""
  path = tmp_path / "a.mkv"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    for frame, tick in zip(numbered(4), (0, 1, 5, 6), strict=True):
      picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
      picture.pts = tick
      container.mux(stream.encode(picture))
    container.mux(stream.encode(None))
  assert indices(read_video(path).frames) == [0, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("matrix, undo", [
    ((0, 1, -1, 0), lambda x: np.rot90(x, -1, (1, 2))),  # shown turned clockwise
    ((0, -1, 1, 0), lambda x: np.rot90(x, 1, (1, 2))),
    ((-1, 0, 0, -1), lambda x: x[:, ::-1, ::-1]),
    ((-1, 0, 0, 1), lambda x: x[:, :, ::-1]),  # mirrored
])
def test_rotation(tmp_path, rng, matrix, undo):
  """Pixel (x, y) is shown at (a x + c y, b x + d y); a phone's MP4 says so in its track header."""
  blocks = rng.integers(0, 255, (2, 2, 3, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
  path = tmp_path / "a.mp4"
  write_video(path, blocks)
  upright = read_video(path).frames
  content = bytearray(path.read_bytes())
  start = content.find(b"tkhd") + 44
  a, b, c, d = (value * 0x10000 for value in matrix)
  content[start:start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
  path.write_bytes(content)
  np.testing.assert_array_equal(read_video(path).frames, undo(upright))


@pytest.mark.parametrize("share", [0.0, 0.002, 0.05, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_truncated(tmp_path, rng, share):
  path = tmp_path / "cut.mp4"
  write_video(path, rng.integers(0, 255, (20, HEIGHT, WIDTH, 3), dtype=np.uint8))
  content = path.read_bytes()
  path.write_bytes(content[:int(share * len(content))])
  with pytest.raises(InputError, match="empty|only: |cannot be decoded|cut short"):
    read_video(path)


def test_truncated_matroska(tmp_path, rng):
  path = tmp_path / "a.mkv"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=25)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    for _ in range(20):
      frame = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode(None))
  assert len(read_video(path).frames) == 20
  path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
  with pytest.raises(InputError, match="cut short"):
    read_video(path)


def test_not_a_video(tmp_path):
  with pytest.raises(InputError, match="no such file"):
    read_video(tmp_path / "none.mp4")
  with pytest.raises(InputError, match="is a folder"):
    read_video(tmp_path)
  (tmp_path / "text.mp4").write_text("not a video " * 99)
  with pytest.raises(InputError, match="cannot be decoded"):
    read_video(tmp_path / "text.mp4")
  with av.open(str(tmp_path / "a.wav"), "w") as container:
    stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
  with pytest.raises(InputError, match="no moving pictures, only: audio"):
    read_video(tmp_path / "a.wav")
  av.VideoFrame.from_ndarray(numbered(1)[0], format="rgb24").to_image().save(tmp_path / "a.png")
  with pytest.raises(InputError, match="only: a still picture"):
    read_video(tmp_path / "a.png")


def test_tags_that_are_no_utf8(clip, tmp_path):
  content = clip.read_bytes()
  assert content.count(b"synthetic") == 1
  (tmp_path / "a.mp4").write_bytes(content.replace(b"synthetic", "synthétic".encode("latin-1")))
  assert len(read_video(tmp_path / "a.mp4").frames) == 20


def test_nothing_half_written_stays(tmp_path, rng):
  """A limit on the size of files stands for the full disk; the encoder's own writes run into it."""
  frames = rng.integers(0, 255, (10, 64, 64, 3), dtype=np.uint8)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
  try:
    with pytest.raises(InputError, match="Cannot write .*a.mp4: File too large"):
      write_video(tmp_path / "a.mp4", frames)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

  def interrupted():
    yield from frames[:5]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    write_video(tmp_path / "a.mp4", interrupted())
  with pytest.raises(InputError, match="folder .*missing does not exist"):
    write_video(tmp_path / "missing" / "a.mp4", frames)
  assert list(tmp_path.iterdir()) == []


def test_a_growing_video_plays_before_its_end(tmp_path, speech):
  """What is on disk plays up to some 45 frames behind; the finished file has the pictures and sound of any other."""
  frames, played = numbered(110), []

  def shown():
    for index, frame in enumerate(frames):
      if index == 100:
        with av.open(str(tmp_path / "a.partial.mp4")) as container:
          played.extend(frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
      yield frame

  grow_video(tmp_path / "a.mp4", tmp_path / "a.partial.mp4", shown(), audio=(speech, 16000), metadata={"seed": 7})
  write_video(tmp_path / "b.mp4", frames, audio=(speech, 16000))
  whole = read_video(tmp_path / "b.mp4").frames
  np.testing.assert_array_equal(read_video(tmp_path / "a.mp4").frames, whole)
  np.testing.assert_array_equal(decoded_sound(tmp_path / "a.mp4"), decoded_sound(tmp_path / "b.mp4"))
  assert metadata_of(tmp_path / "a.mp4")["seed"] == 7
  assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "b.mp4"}
  assert len(played) >= 40
  np.testing.assert_array_equal(np.stack(played), whole[:len(played)])


def test_a_full_disk_ends_a_growing_video(tmp_path, rng):
  frames = rng.integers(0, 255, (60, 64, 64, 3), dtype=np.uint8)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
  try:
    with pytest.raises(InputError, match="Cannot write .*a.partial.mp4: File too large"):
      grow_video(tmp_path / "a.mp4", tmp_path / "a.partial.mp4", frames)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert [path.name for path in tmp_path.iterdir()] == ["a.partial.mp4"]
  (tmp_path / "a.partial.mp4").unlink()
  (tmp_path / "a.mp4").mkdir()
  with pytest.raises(InputError, match="a.mp4: it is a folder"):
    grow_video(tmp_path / "a.mp4", tmp_path / "a.partial.mp4", frames)
  assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("frames, message", [
    (np.zeros((0, 32, 32, 3), np.uint8), "no frames"),
    (np.zeros((1, 32, 33, 3), np.uint8), "33x32; 4:2:0 video needs even sides"),
    (np.zeros((1, 32, 32, 3), np.float32), "float32"),
    ([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 34, 3), np.uint8)], "one size is needed"),
])
def test_frames_that_cannot_be_written(tmp_path, frames, message):
  with pytest.raises(ValueError, match=message):
    write_video(tmp_path / "a.mp4", frames)
  assert list(tmp_path.iterdir()) == []


def test_sound_that_is_not_finite(tmp_path):
  with pytest.raises(ValueError, match="not finite"):
    write_video(tmp_path / "a.mp4", numbered(1), audio=(np.array([np.nan]), 16000))


def test_a_stream_gives_the_frames_of_a_read_video(tmp_path, rng):
  path = tmp_path / "clip.mp4"
  write_video(path, rng.integers(0, 256, (7, 32, 48, 3), np.uint8), fps=10)
  streamed = list(stream_video(path))
  np.testing.assert_array_equal(np.stack(streamed), read_video(path).frames)
  assert len({id(frame) for frame in streamed}) == 7 < len(streamed), "repeats are shared"


def write_tagged(path, frames, **tags):
  """An MP4 whose pixels or colours are said to be others."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
    stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
    for name, value in tags.items():
      setattr(stream.codec_context, name, value)
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode(None))


@pytest.mark.parametrize("aspect, size", [
    (Fraction(64, 45), (96, 171)), (Fraction(3, 4), (128, 120)), (Fraction(1), (96, 120)),
    (Fraction(1000, 999), (96, 120))])
def test_pixels_become_square(tmp_path, aspect, size):
  """A bright part keeps its place and its share of the picture."""
  frame = np.zeros((96, 120, 3), np.uint8)
  frame[24:48, 30:90] = 200
  write_tagged(tmp_path / "a.mp4", np.stack([frame] * 2), sample_aspect_ratio=aspect)
  read = read_video(tmp_path / "a.mp4").frames[1, ..., 0]
  assert read.shape == size
  rows, columns = np.flatnonzero(read.mean(1) > 50), np.flatnonzero(read.mean(0) > 25)
  height, width = size
  np.testing.assert_allclose([rows[0], rows[-1] + 1], [height / 4, height / 2], atol=1.5)
  np.testing.assert_allclose([columns[0], columns[-1] + 1], [width / 4, width * 3 / 4], atol=1.5)


def test_absurd_pixels_are_refused(tmp_path):
  write_tagged(tmp_path / "a.mp4", numbered(2), sample_aspect_ratio=Fraction(20, 1))
  with pytest.raises(InputError, match="pixels of shape 20:1"):
    read_video(tmp_path / "a.mp4")


@pytest.mark.parametrize("code, name", [(16, "PQ"), (18, "HLG"), (1, None)])
def test_high_dynamic_range_is_told_once(tmp_path, told, code, name):
  write_tagged(tmp_path / "a.mp4", numbered(2), color_trc=code)
  for _ in range(2):
    read_video(tmp_path / "a.mp4")
  assert [f"({name})" in line for line in told] == ([True] if name else [])
