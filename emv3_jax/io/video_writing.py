"""Writing of MP4 videos: H.264 in BT.709, with AAC sound."""

from collections.abc import Iterable, Iterator
import itertools
import json
import os

import av
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float, Float32
import numpy as np

from emv3_jax.geometry import FPS
from emv3_jax.io import downmix
from emv3_jax.io.atomic import atomic_file, growing_file
from emv3_jax.io.resampling import resample

CRF = 16  # quality of x264: visually almost identical to the source
ENCODER_THREADS = 4  # fixed, since the encoded bits depend on it
FRAGMENT = 500_000  # microseconds of a fragment of a video that plays while it grows
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
BT709 = 1  # code point of primaries, transfer curve and matrix in H.264 and MP4

Audio = tuple[Float[np.ndarray, "n *channels"], int]


def write_video(path: str | os.PathLike, frames: Iterable[np.ndarray], *, fps: int = FPS,
                audio: Audio | None = None, metadata: dict | None = None) -> None:
  """Writes an MP4: H.264 (4:2:0, BT.709), AAC, index at the beginning; the file is written atomically.

  The sound is cut or padded with silence to the exact length of the pictures, F / fps, and starts
  with them. The same input gives the same bytes if the libraries are the same.

  Args:
    path: path of the video.
    frames: uint8 RGB [F, H, W, 3], or an iterable of [H, W, 3]; H and W even.
    fps: frames per second.
    audio: samples in [-1, 1], float [n] or [n, channels], and their rate in Hz. More than two
      channels are mixed to left and right (`downmix`); a rate that AAC does not support becomes 48 kHz.
    metadata: written as JSON in the file's comment.

  Raises:
    InputError: `path` cannot be written.
    ValueError: there are no frames, frames have another dtype or odd or different sizes, or the sound
      is not finite.
  """
  sound, frames = None if audio is None else _for_aac(*audio), _begun(frames)
  with atomic_file(path) as temporary:
    _encode(temporary, frames, fps, sound, metadata, {"movflags": "+faststart"})


def grow_video(path: str | os.PathLike, partial: str | os.PathLike, frames: Iterable[np.ndarray], *, fps: int = FPS,
               audio: Audio | None = None, metadata: dict | None = None) -> None:
  """Writes an MP4 that plays while it grows: the pictures and sound of `write_video` in fragments.

  The encoder looks some 45 frames ahead, by which the file is behind the frames that it got.

  Args:
    path: path of the finished video.
    partial: path of the video as long as it grows; where the frames fail or end in an interrupt, it
      stays with all frames so far, and plays.
    frames, fps, audio, metadata: as of `write_video`.

  Raises:
    InputError, ValueError: as `write_video`.
  """
  sound, frames = None if audio is None else _for_aac(*audio), _begun(frames)
  with growing_file(path, partial) as growing:
    _encode(growing, frames, fps, sound, metadata, {
        "movflags": "+delay_moov+default_base_moof", "frag_duration": str(FRAGMENT), "flush_packets": "1"})


def _begun(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  """Waits for the first frame, before a file is made."""
  frames = iter(frames)
  first = next(frames, None)
  if first is None:
    raise ValueError("write_video got no frames.")
  return itertools.chain([first], frames)


def _encode(path: os.PathLike, frames: Iterator[np.ndarray], fps: int,
            sound: tuple[np.ndarray, int] | None, metadata: dict | None, options: dict[str, str]) -> None:
  """Encodes at least one frame and as much of the sound as the frames are long; if the frames fail, those
  before are in the file all the same."""
  first = next(frames)
  # The path is absolute because FFmpeg takes text before a colon for a protocol.
  with av.open(os.path.abspath(path), "w", format="mp4", options={"fflags": "+bitexact", **options}) as container:
    container.metadata["comment"] = json.dumps(metadata or {})
    video_stream = _add_h264(container, first, fps)
    audio_stream = _add_aac(container, *sound) if sound else None
    begin = 0
    try:
      for i, frame in enumerate(itertools.chain([first], frames)):
        container.mux(video_stream.encode(_to_yuv(_checked(frame, first.shape), i)))
        if sound and audio_stream:
          samples, rate = sound
          end = round((i + 1) * rate / fps)
          container.mux(audio_stream.encode(_audio_frame(samples, rate, begin, end)))
          begin = end
    finally:
      for stream in (video_stream, audio_stream):
        if stream is not None:
          container.mux(stream.encode(None))


def _checked(frame: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
    raise ValueError(f"A frame is {frame.dtype} {list(frame.shape)}; expected uint8 [H, W, 3].")
  if frame.shape[0] % 2 or frame.shape[1] % 2:
    raise ValueError(f"Frames are {_size(frame.shape)}; 4:2:0 video needs even sides.")
  if frame.shape != shape:
    raise ValueError(f"A frame is {frame.shape}, the first was {shape}; one size is needed.")
  return frame


def _size(shape: tuple[int, ...]) -> str:
  return f"{shape[1]}x{shape[0]}"


def _add_h264(container: OutputContainer, first: np.ndarray, fps: int) -> av.VideoStream:
  stream = container.add_stream("libx264", rate=fps, options={"crf": str(CRF)})
  context = stream.codec_context
  context.height, context.width = _checked(first, first.shape).shape[:2]
  context.pix_fmt = "yuv420p"
  context.color_primaries = context.color_trc = context.colorspace = BT709
  context.color_range = ColorRange.MPEG
  context.thread_count = ENCODER_THREADS
  return stream


def _to_yuv(frame: np.ndarray, index: int) -> av.VideoFrame:
  picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
      format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
  picture.pts = index
  return picture


def _for_aac(samples: np.ndarray, rate: int) -> tuple[Float32[np.ndarray, "n channels"], int]:
  """Converts sound to one or two channels at a sample rate that AAC supports; it is not copied where it has both."""
  samples = np.asarray(samples, np.float32)
  samples = samples[:, None] if samples.ndim == 1 else samples
  if samples.ndim != 2 or not samples.shape[1]:
    raise ValueError(f"Audio is {list(samples.shape)}; expected [n] or [n, channels].")
  if not np.isfinite(samples).all():
    raise ValueError("Audio has samples that are not finite.")
  if samples.shape[1] > 2:
    whole, samples = np.abs(samples).max(initial=1), downmix.to_stereo(samples)
    samples *= min(whole / np.abs(samples).max(initial=whole), 1)  # keeps the loudness unless it overflows
  if rate not in AAC_RATES:
    samples, rate = resample(samples, rate, 48000), 48000
  return samples, rate


def _add_aac(container: OutputContainer, samples: np.ndarray,
             rate: int) -> av.AudioStream:
  channels = samples.shape[1]
  stream = container.add_stream("aac", rate=rate, layout=("mono", "stereo")[channels - 1])
  stream.bit_rate = min(128_000, 4 * rate) * channels
  return stream


def _audio_frame(samples: np.ndarray, rate: int, begin: int, end: int) -> av.AudioFrame:
  """Returns samples [begin, end), cut to [-1, 1], as a frame, padded with silence after the last sample."""
  part = np.clip(samples[begin:end], -1, 1)
  part = np.pad(part, ((0, end - begin - len(part)), (0, 0)))
  frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part.T), format="fltp",
                                     layout=("mono", "stereo")[part.shape[1] - 1])
  frame.sample_rate, frame.pts = rate, begin
  return frame
