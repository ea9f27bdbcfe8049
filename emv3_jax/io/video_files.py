"""Video files: MP4 out, anything that FFmpeg decodes in; colours as in BT.709."""

import collections
from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import itertools
import json
import os

import av
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float, UInt8
import numpy as np
import soxr

from emv3_jax.errors import InputError
from emv3_jax.io.atomic import atomic_file
from emv3_jax.io.containers import open_container

CRF = 16  # x264 quality: hard to tell from the source
ENCODER_THREADS = 4  # fixed, since the bits depend on it
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
BT709 = 1  # code point of primaries, transfer curve and matrix in H.264 and MP4
# Containers end a little before the length they declare (rounding, padding of the sound). More than
# this is missing only from a file that was cut.
DURATION_SLACK = 0.1  # seconds

Audio = tuple[Float[np.ndarray, "n *channels"], int]


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
  """Decoded pictures.

  Attributes:
    frames: uint8 [F, H, W, 3] RGB.
    fps: frames a second; the average where the rate varies.
  """

  frames: UInt8[np.ndarray, "F H W 3"]
  fps: float


def write_video(path: str | os.PathLike, frames: Iterable[np.ndarray], *, fps: int = 25,
                audio: Audio | None = None, metadata: dict | None = None) -> None:
  """Writes an MP4: H.264 (4:2:0, BT.709), AAC, index in front; whole or not at all.

  The sound is cut or padded with silence to the exact length of the pictures, F / fps, and starts
  with them. The same input gives the same bytes with the same libraries.

  Args:
    path: where to.
    frames: uint8 RGB [F, H, W, 3], or an iterable of [H, W, 3]; H and W even.
    fps: frames a second.
    audio: samples in [-1, 1], float [n] or [n, channels], and their rate in Hz. More than two
      channels are averaged into one; a rate that AAC does not know becomes 48 kHz.
    metadata: kept as JSON in the file's comment.

  Raises:
    InputError: `path` cannot be written.
    ValueError: no frames, frames of another dtype or of odd or differing sizes, sound that is not
      finite.
  """
  sound = None if audio is None else _for_aac(*audio)
  frames = iter(frames)
  first = next(frames, None)
  if first is None:
    raise ValueError("write_video got no frames.")
  with atomic_file(path) as temporary, av.open(
      os.fspath(temporary), "w", format="mp4",
      options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
    container.metadata["comment"] = json.dumps(metadata or {})
    video_stream = _add_h264(container, first, fps)
    audio_stream = _add_aac(container, *sound) if sound else None
    begin = 0
    for i, frame in enumerate(itertools.chain([first], frames)):
      container.mux(video_stream.encode(_to_yuv(_checked(frame, first.shape), i)))
      if sound:
        samples, rate = sound
        end = round((i + 1) * rate / fps)
        container.mux(audio_stream.encode(_audio_frame(samples, rate, begin, end)))
        begin = end
    for stream in container.streams:
      container.mux(stream.encode(None))


def read_video(path: str | os.PathLike, fps: float | None = 25.0,
               max_frames: int | None = None) -> Video:
  """Decodes the first video track.

  Args:
    path: a file in any container and codec that FFmpeg knows. Its rotation or mirroring is applied.
    fps: constant rate to give; at time j / fps after the first frame, output j is the latest frame
      of the file, by its time stamps, so that variable rates come out right. None gives the frames
      as they are.
    max_frames: stop after so many; None reads all.

  Raises:
    InputError: no such file, not a video, damaged, or cut short.
  """
  with contextlib.closing(_upright_frames(path, fps)) as timed:
    kept = list(itertools.islice(timed, max_frames))
  return Video(np.stack([frame for frame, _ in kept]), float(fps or kept[0][1]))


def stream_video(path: str | os.PathLike, fps: float = 25.0) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
  """The frames of `read_video`, one at a time: memory does not grow with the video.

  Repeated frames are the same array.

  Raises:
    InputError: as `read_video`; a cut or damaged file shows when the frames before are given.
  """
  for frame, _ in _upright_frames(path, fps):
    yield frame


def _upright_frames(path: str | os.PathLike, fps: float | None
                    ) -> Iterator[tuple[np.ndarray, float]]:
  """(frame uint8 [H, W, 3], average rate of the file)."""
  with _opened(path) as container:
    tracks = [stream for stream in container.streams.video
              if not stream.disposition & av.stream.Disposition.attached_pic]
    kind = container.format.name
    if not tracks or kind == "image2" or kind.endswith("_pipe"):
      held = ("a still picture" if container.streams.video else
              ", ".join(sorted({stream.type for stream in container.streams})) or "nothing")
      raise InputError(f"Video {path} holds no moving pictures, only: {held}.")
    stream = tracks[0]
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    timed = _timed_frames(container, stream, rate, path)
    frames = _at_constant_rate(timed, fps) if fps else (f for _, f in timed if f is not None)
    shape, last, picture = None, None, None
    for frame in frames:
      picture = picture if frame is last else _to_rgb(frame, path)  # repeats convert once
      last, shape = frame, shape or picture.shape
      if picture.shape != shape:
        raise InputError(f"Video {path} changes its size on the way, from {_size(shape)} to "
                         f"{_size(picture.shape)}; save it with one size.")
      yield picture, rate
  if shape is None:
    raise InputError(f"Video {path} has a video track without a single frame.")


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


def _add_h264(container: av.container.OutputContainer, first: np.ndarray, fps: int) -> av.VideoStream:
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


def _for_aac(samples: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
  """float32 [n, 1 or 2] in [-1, 1] at a rate of AAC."""
  samples = np.asarray(samples, np.float32)
  samples = samples[:, None] if samples.ndim == 1 else samples
  if samples.ndim != 2 or not samples.shape[1]:
    raise ValueError(f"Audio is {list(samples.shape)}; expected [n] or [n, channels].")
  if not np.isfinite(samples).all():
    raise ValueError("Audio has samples that are not finite.")
  if samples.shape[1] > 2:
    samples = samples.mean(1, keepdims=True)
  if rate not in AAC_RATES:
    samples, rate = soxr.resample(samples, rate, 48000), 48000
  return np.clip(samples, -1, 1), rate


def _add_aac(container: av.container.OutputContainer, samples: np.ndarray,
             rate: int) -> av.AudioStream:
  channels = samples.shape[1]
  stream = container.add_stream("aac", rate=rate, layout=("mono", "stereo")[channels - 1])
  stream.bit_rate = min(128_000, 4 * rate) * channels
  return stream


def _audio_frame(samples: np.ndarray, rate: int, begin: int, end: int) -> av.AudioFrame:
  """Samples [begin, end), silence beyond the last."""
  part = samples[begin:end]
  part = np.pad(part, ((0, end - begin - len(part)), (0, 0)))
  frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part.T), format="fltp",
                                     layout=("mono", "stereo")[part.shape[1] - 1])
  frame.sample_rate, frame.pts = rate, begin
  return frame


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[av.container.InputContainer]:
  """`open_container`; FFmpeg's errors, of opening and of decoding, become `InputError`s."""
  if not os.path.isfile(path):
    raise InputError(f"Video {path}: no such file.")
  if os.path.getsize(path) == 0:
    raise InputError(f"Video {path} is empty (0 bytes).")
  try:
    with open_container(path) as container:
      yield container
  except av.error.FFmpegError as error:
    raise InputError(f"Video {path} cannot be decoded ({error.strerror}).\n"
                     "It is no video file, or it is damaged; save it again.") from error


def _timed_frames(container: av.container.InputContainer, stream: av.VideoStream, rate: float,
                  path: str | os.PathLike) -> Iterator[tuple[float, av.VideoFrame | None]]:
  """(seconds since the first frame, frame), then (end of the last frame, None).

  Raises:
    InputError: a packet is incomplete, or the file ends before the length that it declares.
  """
  first, end, shown = None, 0.0, 0
  reach = collections.defaultdict(float)  # end of each track's packets, in seconds
  for packet in container.demux():
    if packet.stream is stream and packet.is_corrupt:
      raise InputError(f"Video {path} is damaged or cut short at "
                       f"{reach[stream.index]:.2f} s; save it again.")
    if packet.pts is not None:
      seconds = float((packet.pts + (packet.duration or 0)) * packet.time_base)
      reach[packet.stream.index] = max(reach[packet.stream.index], seconds)
    if packet.stream is not stream:
      continue
    for frame in packet.decode():
      seconds = shown / rate if frame.time is None else frame.time
      first = seconds if first is None else first
      yield seconds - first, frame
      end = seconds - first + (float(frame.duration * frame.time_base) or 1 / rate)
      shown += 1
  _check_whole(container, stream, reach, path)
  yield end, None


def _check_whole(container: av.container.InputContainer, stream: av.VideoStream,
                 reach: dict[int, float], path: str | os.PathLike) -> None:
  """Compares the end of the last packet with the length that the header promises."""
  if container.format.name.startswith("matroska"):  # declares the length of its longest track
    found, declared = max(reach.values(), default=0.0), (container.duration or 0) / av.time_base
  else:
    found = reach[stream.index] - float((stream.start_time or 0) * stream.time_base)
    declared = float((stream.duration or 0) * stream.time_base)
  if found < declared - DURATION_SLACK:
    raise InputError(f"Video {path} is cut short: {found:.2f} s found, {declared:.2f} s declared "
                     "in its header; save it again.")


def _at_constant_rate(timed: Iterable[tuple[float, av.VideoFrame | None]], fps: float
                      ) -> Iterator[av.VideoFrame]:
  """The latest frame at each time j / fps; as many as fit, rounded, and at least one."""
  held, count = None, 0
  tolerance = 1e-3  # containers round time stamps to milliseconds
  for seconds, frame in timed:
    if frame is None:
      until = max(1, round(seconds * fps))
    else:
      until = int(np.ceil((seconds - tolerance) * fps))
    while held is not None and count < until:
      yield held
      count += 1
    held = frame


def _to_rgb(frame: av.VideoFrame, path: str | os.PathLike) -> np.ndarray:
  """uint8 [H, W, 3], upright."""
  picture = frame.to_ndarray(format="rgb24")
  matrix = frame.side_data.get("DISPLAYMATRIX")
  if matrix is None:
    return picture
  # Pixel (x, y) is shown at (a x + c y, b x + d y).
  a, b, _, c, d = np.sign(np.frombuffer(bytes(matrix), np.int32)[:5])
  if (a, d) == (0, 0) and b and c:
    return picture.swapaxes(0, 1)[::b, ::c]
  if (b, c) == (0, 0) and a and d:
    return picture[::d, ::a]
  raise InputError(f"Video {path} is to be shown at an angle that is no multiple of 90 degrees; "
                   "save it upright.")
