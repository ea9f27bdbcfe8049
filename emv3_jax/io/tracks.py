"""Which tracks of a media file are moving pictures, and when its pictures begin."""

import os

import av

from emv3_jax.io.containers import open_container


def moving_pictures(container: av.container.InputContainer) -> list[av.VideoStream]:
  """Tracks of pictures that move: no cover of an album, no still picture."""
  if container.format.name == "image2" or container.format.name.endswith("_pipe"):
    return []
  return [stream for stream in container.streams.video
          if not stream.disposition & av.stream.Disposition.attached_pic]


def decodable(streams: list) -> list:
  """Those that FFmpeg has a decoder for, in their order."""
  return [stream for stream in streams if stream.codec_context is not None]


def frame_seconds(frame: av.frame.Frame) -> float | None:
  """Time stamp of a decoded frame; None where its container has none."""
  stamp = frame.dts if frame.pts is None else frame.pts
  return None if stamp is None else float(stamp * frame.time_base)


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
      except av.error.FFmpegError:  # it is the sound that is read; its place is told in the header
        continue
    for stream in tracks:
      if stream.start_time is not None:
        return float(stream.start_time * stream.time_base)
  return None
