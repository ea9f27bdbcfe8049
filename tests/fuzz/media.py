"""Pictures, sounds and videos, whole and not."""

import functools
import io
import os
import pathlib
import random
import struct
import zlib

import av
import numpy as np
from PIL import Image
import soundfile

from tests.fuzz.damage import spoilt

TINY = pathlib.Path(__file__).parents[2] / "emv3_jax/assets/tiny"
OF_A_CLIP = (("audio", "sound"), ("image", "picture"))
_PICTURES = ("png", "jpeg", "webp", "gif", "bmp", "tiff", "ppm", "ico")
_MODES = ("RGB", "L", "RGBA", "P", "1", "LA", "CMYK", "I;16", "F")
_SOUNDS = (("wav", "PCM_16"), ("wav", "FLOAT"), ("wav", "PCM_24"), ("wav", "ULAW"), ("flac", "PCM_16"),
           ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"), ("aiff", "PCM_16"), ("au", "PCM_16"))
_VIDEOS = {"mp4": "mpeg4", "mkv": "mpeg4", "webm": "vp8", "avi": "mjpeg", "mov": "mpeg4", "ts": "mpeg2video"}
_TEXTS = (b"", b"\0", b"#EXTM3U\n#EXTINF:1\n/etc/hostname\n", b"#EXTM3U\nhttp://127.0.0.1:9/x.mp4\n",
          b"ffconcat version 1.0\nfile speech.wav\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
          b"<?xml version='1.0'?><MPD/>", b"%PDF-1.4", b"RIFF\xff\xff\xff\xffWAVE", b"\x89PNG\r\n\x1a\n",
          b"GIF89a", b"\xff\xd8\xff", b"RIFF\4\0\0\0WEBP", b"OggS", b"fLaC", b"ID3\4\0\0\x7f\x7f\x7f\x7f",
          b"\0\0\0\1ftypisom", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@functools.cache
def portrait() -> bytes:
  return (TINY / "portrait.png").read_bytes()


@functools.cache
def speech() -> bytes:
  """5 frames of the voice: longer ones would take their time."""
  samples, rate = soundfile.read(TINY / "speech.wav", stop=3200)
  return _sound(samples, rate, "wav", "PCM_16")


@functools.cache
def talking() -> bytes:
  """5 frames of 64x64 pixels with sound, MP4."""
  return _video("mp4", 5, (64, 64), np.random.default_rng(0))


def good(kind: str) -> tuple[bytes, str]:
  """Bytes that a command takes, and the ending of their name; kind: picture, sound or video."""
  return {"picture": (portrait(), ".png"), "sound": (speech(), ".wav"), "video": (talking(), ".mp4")}[kind]


def any_file(kind: str, rng: random.Random) -> tuple[bytes, str]:
  """Bytes for a picture, a sound or a video, and the ending that their name has."""
  way = rng.randrange(10)
  if way < 3:
    content, ending = good(kind)
    content = spoilt(content, rng)
  elif way < 7:
    content, ending = {"picture": _picture_of, "sound": _sound_of, "video": _video_of}[kind](rng)
    content = spoilt(content, rng) if way == 6 else content
  elif way == 7:
    content, ending = rng.choice(_TEXTS), good(kind)[1]
  else:  # another kind, by its own name or renamed
    content, ending = good(rng.choice(("picture", "sound", "video")))
    ending = rng.choice((ending, good(kind)[1], ""))
  return content, rng.choice((ending, ending, ending, ending.upper(), ".mp4", ".npy"))


def _draw(rng: random.Random) -> np.random.Generator:
  return np.random.default_rng(rng.getrandbits(32))


def _picture_of(rng: random.Random) -> tuple[bytes, str]:
  if rng.random() < 0.25:
    return _claims(rng.choice((0, 1, 65500, 2 ** 31 - 1)), rng.choice((0, 1, 65500, 2 ** 31 - 1))), ".png"
  size = rng.choice(((1, 1), (1, 300), (300, 1), (15, 15), (16, 16), (64, 48), (200, 90)))
  form, mode = rng.choice(_PICTURES), rng.choice(_MODES)
  image = Image.fromarray(_draw(rng).integers(0, 256, (size[1], size[0], 3), np.uint8))
  written = io.BytesIO()
  try:
    image = Image.new(mode, size) if mode in ("I;16", "F") else image.convert(mode)
    extra = {"save_all": True, "append_images": [image]} if form in ("gif", "tiff") else {}
    image.save(written, form, **extra)
  except (OSError, ValueError, KeyError):  # not every form has every mode
    written = io.BytesIO()
    Image.new("RGB", (16, 16)).save(written, form)
  return written.getvalue(), f".{form}"


def _claims(width: int, height: int) -> bytes:
  """A PNG whose header tells of a size that the rest does not have."""
  def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

  header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
  return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def _sound(samples: np.ndarray, rate: int, form: str, subtype: str) -> bytes:
  written = io.BytesIO()
  soundfile.write(written, samples, rate, subtype=subtype, format=form.upper())
  return written.getvalue()


def _sound_of(rng: random.Random) -> tuple[bytes, str]:
  form, subtype = rng.choice(_SOUNDS)
  count = rng.choice((0, 1, 2, 100, 700, 3200, 5000))
  rate = rng.choice((1, 8000, 16000, 44100, 48000, 192000, 655350))
  samples = _draw(rng).standard_normal((count, rng.choice((1, 1, 2, 6)))) * rng.choice((0, 0.1, 1, 1e30))
  if subtype != "FLOAT":  # writing what is out of range, or strange rates, may end the process
    samples = np.clip(samples, -1, 1)
    if form in ("ogg", "mp3"):
      rate, samples = rng.choice((16000, 44100, 48000)), samples[:, :2]
  elif count and rng.random() < 0.5:
    samples[rng.randrange(count)] = rng.choice((np.nan, np.inf, -np.inf))
  content = _sound(samples, rate, form, subtype)
  if form == "wav" and rng.random() < 0.3:  # a header that lies about channels, rate and the rest
    at = rng.choice((22, 24, 28, 32, 34, 40))
    content = content[:at] + rng.choice((b"\0\0", b"\1\0", b"\xff\xff", b"\xff\x7f")) + content[at + 2:]
  return content, f".{form}"


def _video(form: str, frames: int, size: tuple[int, int], draw: np.random.Generator, sound: bool = True,
           rate: int = 25) -> bytes:
  written = io.BytesIO()
  with av.open(written, "w", format={"mkv": "matroska", "ts": "mpegts"}.get(form, form)) as container:
    pictures = container.add_stream(_VIDEOS[form], rate=rate)
    pictures.width, pictures.height = size
    pictures.pix_fmt = "yuvj420p" if _VIDEOS[form] == "mjpeg" else "yuv420p"
    voice = container.add_stream("libopus" if form == "webm" else "mp3", rate=48000) if sound else None
    for _ in range(frames):
      frame = av.VideoFrame.from_ndarray(draw.integers(0, 256, (size[1], size[0], 3), np.uint8))
      container.mux(pictures.encode(frame))
    container.mux(pictures.encode(None))
    if voice is not None:
      tone = (3000 * np.sin(np.arange(9600) / 40)).astype(np.int16)[None]
      frame = av.AudioFrame.from_ndarray(tone, "s16", "mono")
      frame.sample_rate = 48000
      container.mux(voice.encode(frame))
      container.mux(voice.encode(None))
  return written.getvalue()


def _video_of(rng: random.Random) -> tuple[bytes, str]:
  form = rng.choice(sorted(_VIDEOS))
  size = rng.choice(((64, 64), (16, 16), (2, 2), (48, 96), (130, 34)))
  try:
    content = _video(form, rng.choice((1, 4, 5, 9)), size, _draw(rng), sound=rng.random() < 0.8,
                     rate=rng.choice((1, 12, 25, 30, 60)))
  except (av.FFmpegError, ValueError):  # a rate that the form does not know
    content = talking()
  return content, f".{form}"


def write(folder: pathlib.Path, name: str, kind: str, rng: random.Random | None = None,
          spoil: bool = False) -> pathlib.Path:
  """A file of the kind in `folder`, damaged in any way or as it should be."""
  content, ending = any_file(kind, rng) if spoil else good(kind)
  path = pathlib.Path(os.path.join(folder, name + ending))
  path.write_bytes(content)
  return path
