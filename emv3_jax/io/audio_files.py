"""Decoding of sound from any file with an audio track: WAV, MP3, M4A, a video."""

import os

from absl import logging
import av
from av.container import InputContainer
from av.error import FFmpegError
from jaxtyping import Float32
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io import downmix, sound_timeline, tracks
from emv3_jax.io.containers import open_container
from emv3_jax.io.sound_timeline import Piece

# Sound ends a little before or after the length that its container declares, because encoders pad and
# durations are rounded to milliseconds. A file from which more is missing was cut short.
DURATION_SLACK = 0.1  # seconds
# Formats without an index, in which joined files leave tags between the packets, and the largest share
# of packets that may be such tags.
TAGGED_FORMATS, TAGS_SHARE = ("mp3", "aac"), 0.1


def read_audio(path: str | os.PathLike) -> tuple[Float32[np.ndarray, "n channels"], int]:
  """Decodes the first sound track that can be decoded.

  Samples follow their time stamps: gaps are filled with silence, overlaps are cut. In a file with a
  video track, sample 0 is at the first video frame: silence is put before sound that begins later, and
  earlier sound is cut. In other files sample 0 is the first sample of the track.

  Integer samples are divided by their full scale, as libsndfile does, so that WAV files give
  exactly what `soundfile.read(path, dtype="float32")` gives. Values are not changed, NaN included. If
  the sample rate changes within the file, all sound is resampled to the first rate. Channels are kept,
  but more than two are mixed to left and right if the file's layout is not the usual one of that number
  of channels (`downmix`).

  Returns:
    Samples, nominally in [-1, 1], and their rate in Hz.

  Raises:
    InputError: there is no such file, it is not a media file, has no sound, is damaged, or is cut short.
  """
  with open_container(path, "Audio") as container:
    sounds = container.streams.audio
    if not sounds:
      kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
      raise InputError(f"Audio {path} has no sound track, only: {kinds}.")
    streams = tracks.decodable(sounds)
    if not streams:
      raise InputError(f"Audio {path} has a sound track in a codec that cannot be decoded; save it as "
                       "AAC or WAV.")
    begin = None
    if tracks.moving_pictures(container):
      begin = tracks.pictures_begin(path)
    stream, pieces = _first_decoded(container, streams, path)
    if stream is not sounds[0]:
      logging.warning("%s: sound track %d of %d is used, the first that can be decoded.", path,
                      list(sounds).index(stream) + 1, len(sounds))
    pieces = _checked_length(container, stream, pieces, path)
    return sound_timeline.lay(pieces, float(tracks.tick(stream)), begin, path), pieces[0].rate


def _first_decoded(container: InputContainer, streams: list[av.AudioStream],
                   path) -> tuple[av.AudioStream, list[Piece]]:
  """Returns the first track that decodes, and its pieces; raises the error of the last track."""
  *others, last = streams
  for stream in others:
    try:
      return stream, _decode(container, stream, path)
    except FFmpegError:
      container.seek(0)
  return last, _decode(container, last, path)


def _decode(container: InputContainer, stream: av.AudioStream, path) -> list[Piece]:
  """Decodes one track. The rate of the frames is used, because HE-AAC headers declare half of it.

  Raises:
    FFmpegError: a packet cannot be decoded, and it is not a tag between joined files.
    InputError: there are no samples.
  """
  pieces, packets, refused = [], 0, []
  for packet in container.demux(stream):
    packets += 1
    try:
      for frame in packet.decode():
        if frame.samples:
          pieces.append(Piece(tracks.frame_seconds(frame), _channels(frame), frame.sample_rate))
    except FFmpegError as error:
      refused.append(error)
      if container.format.name not in TAGGED_FORMATS:
        raise
  if refused and (not pieces or len(refused) > TAGS_SHARE * packets):
    raise refused[0]
  if refused:
    logging.warning("%s: %d of %d packets are not sound (tags between joined files?); they are "
                    "skipped.", path, len(refused), packets)
  if not pieces:
    raise InputError(f"Audio {path} has a sound track without a single sample.")
  return pieces


def _checked_length(container: InputContainer, stream: av.AudioStream, pieces: list[Piece],
                    path) -> list[Piece]:
  """Compares the time from the track's start to the end of its last piece with the declared length.

  Raises:
    InputError: the file is cut short.
  """
  expected, last = _declared_seconds(container, stream, path), pieces[-1]
  found = sum(piece.length for piece in pieces)
  if last.seconds is not None and stream.start_time is not None:
    found = max(last.seconds + last.length - float(stream.start_time * tracks.tick(stream)), found)
  if found < expected - DURATION_SLACK:
    raise InputError(f"Audio {path} is cut short: {found:.2f} s found, {expected:.2f} s declared in"
                     " its header; save it again.")
  padding = round((found - expected) * last.rate)  # the last AAC frame decodes padded
  if "mp4" in container.format.name and expected > 0 and 0 < padding < len(last.samples):
    return [*pieces[:-1], Piece(last.seconds, last.samples[:-padding], last.rate)]
  return pieces


def _channels(frame: av.AudioFrame) -> Float32[np.ndarray, "n channels"]:
  """Returns the samples of a decoded frame; an unusual layout of more than two channels is mixed to two."""
  samples, names = _to_float(frame), [channel.name for channel in frame.layout.channels]
  if len(names) < 3 or "NONE" in names or downmix.is_usual(names):
    return samples
  return downmix.to_stereo(samples, names)


def _to_float(frame: av.AudioFrame) -> Float32[np.ndarray, "n channels"]:
  """Converts the samples of a decoded frame from any sample format to float."""
  if frame.format.is_planar and frame.layout.nb_channels >= 8:  # PyAV reads past the eighth plane
    packed = av.AudioResampler(frame.format.packed.name, frame.layout.name, frame.sample_rate)
    frame = packed.resample(frame)[0]
  data: np.ndarray = frame.to_ndarray()
  data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
  if data.dtype == np.uint8:  # unsigned, silence at 128
    data = (data.astype(np.float32) - 128) / 128
  if np.issubdtype(data.dtype, np.integer):
    data = data / -float(np.iinfo(data.dtype).min)
  return data.astype(np.float32)


def _declared_seconds(container: InputContainer, stream: av.AudioStream, path) -> float:
  """Returns the length in the file's header in seconds, 0 if it is not reliable.

  FFmpeg limits the length in a WAV header to the size of the file, so the header is read here. Raw AAC,
  MP3 without a Xing, Info or VBRI tag, and Ogg declare no length: for them FFmpeg estimates it from the
  bit rate or the last page of the file.
  """
  kind = container.format.name
  if kind.startswith("matroska"):  # declares one length for all tracks, that of the longest
    if len(container.streams) > 1 or container.duration is None:
      return 0.0
    return container.duration / av.time_base
  if stream.duration is None or kind in ("aac", "ogg"):
    return 0.0
  with open(path, "rb") as file:
    head = file.read(1 << 20)
  seconds = float(stream.duration * tracks.tick(stream))
  if kind == "mp3":  # of joined files, the number of the first; FFmpeg estimates the rest
    return min(seconds, _declared_frames(head) * stream.codec_context.frame_size / stream.rate)
  if kind == "wav" and head.startswith(b"RIFF") and stream.bit_rate:
    declared = int.from_bytes(head[4:8], "little") + 8
    if declared < 0x7FFFFFFF:  # larger sizes mean "unknown" in streamed files
      seconds += max(declared - os.path.getsize(path), 0) * 8 / stream.bit_rate
  return seconds


def _declared_frames(head: bytes) -> int:
  """Returns the number of frames in the info frame of an MP3; 0 without such a frame.

  Its name is looked for at its offsets only, since a comment may contain "Info" too.
  """
  begin = 0
  while head[begin:begin + 3] == b"ID3":  # a tag: a header of ten bytes, in which four hold seven bits of the size each
    size = 0
    for byte in head[begin + 6:begin + 10]:
      size = size << 7 | byte & 0x7F
    begin += 10 + size + (10 if head[begin + 5] & 0x10 else 0)
  frame = head[begin:begin + 64]  # header, side information of 9 to 32 bytes, then the name
  for name, offset in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
    at = frame.find(name)
    if at >= 0 and (offset == 14 or frame[at + 7] & 1):  # a flag says whether the number is present
      return int.from_bytes(frame[at + offset:at + offset + 4], "big")
  return 0
