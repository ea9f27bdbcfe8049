"""Which tracks of a media file are moving pictures, and when its pictures begin."""

from collections.abc import Sequence
import fractions
import os
from typing import TypeVar

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.frame import Frame
from av.packet import Packet
from av.stream import Disposition, Stream

from emv3_jax.io.containers import open_container

_Stream = TypeVar("_Stream", bound=Stream)


def moving_pictures(container: InputContainer) -> list[av.VideoStream]:
  """Tracks of pictures that move: no cover of an album, no still picture."""
  if container.format.name == "image2" or container.format.name.endswith("_pipe"):
    return []
  return [stream for stream in container.streams.video
          if not stream.disposition & Disposition.attached_pic]


def decodable(streams: Sequence[_Stream]) -> list[_Stream]:
  """Those that FFmpeg has a decoder for, in their order."""
  return [stream for stream in streams if stream.codec_context is not None]


def tick(timed: Stream | Packet | Frame) -> fractions.Fraction:
  """Seconds between two time stamps; 0 where the container does not say."""
  base = timed.time_base
  return fractions.Fraction(base.numerator, base.denominator) if base else fractions.Fraction(0)


def frame_seconds(frame: Frame) -> float | None:
  """Time stamp of a decoded frame; None where its container has none."""
  stamp = frame.dts if frame.pts is None else frame.pts
  return None if stamp is None else float(stamp * tick(frame))


def pictures_begin(path: str | os.PathLike) -> float | None:
  """Time stamp of the first picture that is shown, in seconds; None where no pictures move.

  It is that of the first picture decoded: what an edit list cuts away is not.
  """
  with open_container(path, "Audio") as container:
    tracks = moving_pictures(container)
    for stream in decodable(tracks):
      try:
        for frame in container.decode(stream):
          return frame_seconds(frame) or 0.0
      except FFmpegError:  # only sound is needed; the header has the start
        continue
    for stream in tracks:
      if stream.start_time is not None:
        return float(stream.start_time * tick(stream))
  return None
