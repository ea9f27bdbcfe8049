"""Sound from any file that holds some: WAV, MP3, M4A, a video."""

import os

import av
from jaxtyping import Float32
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io.containers import open_container

# Containers end a little before or after the length they declare: the encoder's padding, rounding
# of durations to milliseconds. More than this is missing only from a file that was cut.
DURATION_SLACK = 0.1  # seconds


def read_audio(path: str | os.PathLike) -> tuple[Float32[np.ndarray, "n channels"], int]:
  """Decodes the first sound track of a file.

  Integer samples are divided by their full scale, as libsndfile does, so that WAV files give
  exactly what `soundfile.read(path, dtype="float32")` gives. Values are passed on as they are,
  NaN included.

  Returns:
    Samples, nominally in [-1, 1], and their rate in Hz.

  Raises:
    InputError: no such file, no media file, no sound in it, damaged, or cut short.
  """
  with open_container(path, "Audio") as container:
    if not container.streams.audio:
      held = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
      raise InputError(f"Audio {path} has no sound track, only: {held}.")
    stream = container.streams.audio[0]
    samples, rate, found = _decode(container, stream, path)
    expected = _declared_seconds(container, stream, path)
    kind = container.format.name
  if found < expected - DURATION_SLACK:
    raise InputError(f"Audio {path} is cut short: {found:.2f} s found, {expected:.2f} s declared in"
                     " its header; save it again.")
  if "mp4" in kind and 0 < expected < found:  # the last AAC frame decodes padded
    samples = samples[:len(samples) - round((found - expected) * rate)]
  return samples, rate


def _decode(container, stream, path) -> tuple[np.ndarray, int, float]:
  """All samples of one stream, the rate of its frames, and the seconds from its start to its end.

  The frames' rate counts, not the stream's: HE-AAC headers declare half of what is decoded. The
  end is that of the last frame's time stamp, since a stream may have gaps.
  """
  chunks, rate, last = [], 0, None
  for frame in container.decode(stream):
    chunk = _to_float(frame)
    if chunks and (frame.sample_rate, chunk.shape[1]) != (rate, chunks[0].shape[1]):
      raise InputError(f"Audio {path} changes its sample rate or channels on the way "
                       f"({rate} Hz x {chunks[0].shape[1]}, then {frame.sample_rate} Hz x "
                       f"{chunk.shape[1]}); save it as one WAV file.")
    rate, last = frame.sample_rate, frame
    chunks.append(chunk)
  samples = np.concatenate(chunks) if chunks else np.zeros((0, 1), np.float32)
  if not len(samples):
    raise InputError(f"Audio {path} has a sound track without a single sample.")
  if last.pts is None or stream.start_time is None:
    return samples, rate, len(samples) / rate
  begin = float(last.pts * last.time_base - stream.start_time * stream.time_base)
  return samples, rate, begin + last.samples / rate


def _to_float(frame: av.AudioFrame) -> np.ndarray:
  """float32 [n, channels] of a decoded frame in any sample format."""
  data = frame.to_ndarray()
  data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
  if data.dtype == np.uint8:  # unsigned, silence at 128
    return (data.astype(np.float32) - 128) / 128
  if np.issubdtype(data.dtype, np.integer):
    return (data / -float(np.iinfo(data.dtype).min)).astype(np.float32)
  return data.astype(np.float32)


def _declared_seconds(container, stream, path) -> float:
  """Length that the file's header promises, 0 where there is none to rely on.

  FFmpeg believes a WAV header only as far as the file goes, so the size in the header is read
  here. Raw AAC, MP3 without a Xing, Info or VBRI tag, and Ogg declare nothing: FFmpeg then
  guesses from the bit rate or looks at the last page present.
  """
  kind = container.format.name
  if kind.startswith("matroska"):  # declares one length for all its tracks, the longest one's
    alone = len(container.streams) == 1 and container.duration is not None
    return container.duration / av.time_base if alone else 0.0
  if stream.duration is None or kind in ("aac", "ogg"):
    return 0.0
  with open(path, "rb") as file:
    head = file.read(1 << 20)
  if kind == "mp3" and not any(tag in head for tag in (b"Xing", b"Info", b"VBRI")):
    return 0.0
  seconds = float(stream.duration * stream.time_base)
  if kind == "wav" and head.startswith(b"RIFF") and stream.bit_rate:
    declared = int.from_bytes(head[4:8], "little") + 8
    if declared < 0x7FFFFFFF:  # larger sizes stand for "not known yet" in streamed files
      seconds += max(declared - os.path.getsize(path), 0) * 8 / stream.bit_rate
  return seconds
