"""Decoding of video files, of any format that FFmpeg supports."""

import collections
from collections.abc import Generator, Iterable, Iterator
import contextlib
import dataclasses
import fractions
import functools
import itertools
import os
from typing import TypeVar

from absl import logging
import av
from av.container import InputContainer
from jaxtyping import Int64, UInt8
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS
from emv3_jax.io import tracks
from emv3_jax.io.containers import open_container
from emv3_jax.io.video_writing import write_video

__all__ = ["Video", "read_video", "stream_video", "write_video"]

# Videos end a little before the length that their container declares (rounding, padding of the sound). A
# file from which more is missing was cut short.
DURATION_SLACK = 0.1  # seconds
HDR_CURVES = {16: "PQ", 18: "HLG"}  # by their code points in H.264, H.265 and MP4
Frame = TypeVar("Frame", av.VideoFrame, int)  # a frame, or its number
WIDEST_PIXEL = 8  # largest ratio of width to height of a pixel, or of height to width


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
  """A decoded video.

  Attributes:
    frames: uint8 [F, H, W, 3] RGB.
    fps: frames per second; the average if the rate varies.
  """

  frames: UInt8[np.ndarray, "F H W 3"]
  fps: float


def read_video(path: str | os.PathLike, fps: float | None = FPS,
               max_frames: int | None = None) -> Video:
  """Decodes the first video track.

  Args:
    path: a file in any container and codec that FFmpeg can read. Its rotation or mirroring is applied,
      and its pixels become square.
    fps: constant frame rate of the result: frame j is the latest frame of the file, by time stamp, at
      time j / fps after the first frame, so that variable rates are converted correctly. None returns
      the frames of the file unchanged.
    max_frames: largest number of frames to read; None reads all.

  Raises:
    InputError: there is no such file, it is not a video, is damaged, or is cut short.
  """
  with contextlib.closing(_upright_frames(path, fps)) as timed:
    kept = list(itertools.islice(timed, max_frames))
  return Video(np.stack([frame for frame, _ in kept]), float(fps or kept[0][1]))


def stream_video(path: str | os.PathLike, fps: float = FPS) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
  """Yields the frames of `read_video` one at a time; memory does not grow with the video.

  Repeated frames are the same array.

  Raises:
    InputError: as `read_video`; for a damaged or cut file it is raised after the frames before the damage.
  """
  for frame, _ in _upright_frames(path, fps):
    yield frame


def frame_numbers(path: str | os.PathLike, fps: float = FPS) -> tuple[Int64[np.ndarray, "F"], int]:
  """Returns which frame of the file each frame of `read_video` is, from 0, and the number of frames of the file.

  Raises:
    InputError: as `read_video`.
  """
  with open_container(path, "Video") as container:
    stream = _pictures(container, path)
    numbers = itertools.count()
    timed = ((seconds, None if frame is None else next(numbers))
             for seconds, frame in _timed_frames(container, stream, _rate(stream), path))
    shown = np.array(list(_at_constant_rate(timed, fps)), np.int64)
    return shown, next(numbers)


def _pictures(container: InputContainer, path: str | os.PathLike) -> av.VideoStream:
  """Returns the first track of moving pictures that can be decoded."""
  moving = tracks.moving_pictures(container)
  if not moving:
    kinds = ("a still picture" if container.streams.video else
             ", ".join(sorted({stream.type for stream in container.streams})) or "nothing")
    raise InputError(f"Video {path} holds no moving pictures, only: {kinds}.")
  if not (streams := tracks.decodable(moving)):
    raise InputError(f"Video {path} is in a codec that cannot be decoded; save it as H.264.")
  streams[0].thread_type = "AUTO"
  return streams[0]


def _rate(stream: av.VideoStream) -> float:
  return float(stream.average_rate or stream.guessed_rate or FPS)


def _upright_frames(path: str | os.PathLike, fps: float | None
                    ) -> Generator[tuple[UInt8[np.ndarray, "H W 3"], float], None, None]:
  """Yields (frame uint8 [H, W, 3], average rate of the file)."""
  with open_container(path, "Video") as container:
    stream = _pictures(container, path)
    rate = _rate(stream)
    aspect = _pixel_aspect(stream, path)
    if (curve := HDR_CURVES.get(stream.codec_context.color_trc)):
      _warn_hdr(os.fspath(path), curve)
    timed = _timed_frames(container, stream, rate, path)
    frames = _at_constant_rate(timed, fps) if fps else (f for _, f in timed if f is not None)
    shape, last, picture = None, None, None
    for frame in frames:
      if picture is None or frame is not last:  # repeated frames are converted once
        picture = _to_rgb(frame, aspect, path)
      last, shape = frame, shape or picture.shape
      if picture.shape != shape:
        raise InputError(f"Video {path} changes its frame size, from {_size(shape)} to "
                         f"{_size(picture.shape)}; save it with one size.")
      yield picture, rate
  if shape is None:
    raise InputError(f"Video {path} has a video track without a single frame.")


def _size(shape: tuple[int, ...]) -> str:
  return f"{shape[1]}x{shape[0]}"


def _timed_frames(container: InputContainer, stream: av.VideoStream, rate: float,
                  path: str | os.PathLike) -> Iterator[tuple[float, av.VideoFrame | None]]:
  """Yields (seconds since the first frame, frame), then (end of the last frame, None).

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
      seconds = float((packet.pts + (packet.duration or 0)) * tracks.tick(packet))
      reach[packet.stream.index] = max(reach[packet.stream.index], seconds)
    if packet.stream is not stream:
      continue
    for frame in stream.decode(packet):
      stamp = tracks.frame_seconds(frame)
      seconds = shown / rate if stamp is None else stamp
      first = seconds if first is None else first
      yield seconds - first, frame
      end = seconds - first + (float(frame.duration * tracks.tick(frame)) or 1 / rate)
      shown += 1
  _check_whole(container, stream, reach, path)
  yield end, None


def _check_whole(container: InputContainer, stream: av.VideoStream,
                 reach: dict[int, float], path: str | os.PathLike) -> None:
  """Compares the end of the last packet with the length in the header."""
  if container.format.name.startswith("matroska"):  # declares the length of its longest track
    found, declared = max(reach.values(), default=0.0), (container.duration or 0) / av.time_base
  else:
    tick = tracks.tick(stream)
    found = reach[stream.index] - float((stream.start_time or 0) * tick)
    declared = float((stream.duration or 0) * tick)
  if found < declared - DURATION_SLACK:
    raise InputError(f"Video {path} is cut short: {found:.2f} s found, {declared:.2f} s declared "
                     "in its header; save it again.")


def _at_constant_rate(timed: Iterable[tuple[float, Frame | None]], fps: float) -> Iterator[Frame]:
  """Yields the latest frame at each time j / fps; their number is the rounded duration times fps, at least one."""
  latest, count = None, 0
  tolerance = 1e-3  # containers round time stamps to milliseconds
  for seconds, frame in timed:
    if frame is None:
      until = max(1, round(seconds * fps))
    else:
      until = int(np.ceil((seconds - tolerance) * fps))
    while latest is not None and count < until:
      yield latest
      count += 1
    latest = frame


@functools.cache  # preparation reads a file twice, but should warn once
def _warn_hdr(path: str, curve: str) -> None:
  logging.warning("%s has high dynamic range (%s); its colours are read as standard range and look "
                  "pale. Convert it to BT.709 for true colours.", path, curve)


def _pixel_aspect(stream: av.VideoStream, path: str | os.PathLike) -> fractions.Fraction:
  """Returns the width of a pixel divided by its height; 1 if the file does not specify it."""
  found = stream.sample_aspect_ratio or fractions.Fraction(1)
  aspect = fractions.Fraction(found.numerator, found.denominator)  # newer PyAV has a class of its own
  if not 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL:
    raise InputError(f"Video {path} has pixels of shape {aspect.numerator}:{aspect.denominator}; save "
                     "it with square ones.")
  return aspect


def _to_rgb(frame: av.VideoFrame, aspect: fractions.Fraction,
            path: str | os.PathLike) -> UInt8[np.ndarray, "H W 3"]:
  """Converts a frame to upright uint8 [H, W, 3] with square pixels; the side with fewer pixels is enlarged."""
  height, width = frame.height, frame.width
  height, width = round(height * max(1 / aspect, 1)), round(width * max(aspect, 1))
  if (height, width) == (frame.height, frame.width):
    picture = frame.to_ndarray(format="rgb24")
  else:
    picture = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC")
  matrix = frame.side_data.get("DISPLAYMATRIX")
  if matrix is None:
    return picture
  # Pixel (x, y) is shown at (a x + c y, b x + d y).
  a, b, _, c, d = np.sign(np.frombuffer(bytes(matrix), np.int32)[:5])
  if (a, d) == (0, 0) and b and c:
    return picture.swapaxes(0, 1)[::b, ::c]
  if (b, c) == (0, 0) and a and d:
    return picture[::d, ::a]
  raise InputError(f"Video {path} has a rotation that is not a multiple of 90 degrees; "
                   "save it upright.")
