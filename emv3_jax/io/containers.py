"""Opening of media files: one file, no others that it names, alike in every release of PyAV."""

from collections.abc import Iterator
import contextlib
import functools
import os
import pathlib
import re
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags

from emv3_jax.errors import InputError

# Tags of older programs may not be UTF-8. Before release 19 PyAV raises an error for them unless this
# option is given, which is its default since then.
_TAGS: dict[str, Any] = {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}

# Formats whose content names further files or addresses. FFmpeg recognises them by content,
# whatever the file's name. Formats that open devices or name patterns have a flag of their own.
_NAMES_OTHERS = {
    "hls", "hls,applehttp", "applehttp", "concat", "concatf", "dash", "imf", "webm_dash_manifest",
    "sdp", "rtsp", "rtp", "sap", "ffmetadata", "image2", "lavfi", "avisynth", "vapoursynth",
    "vobsub", "mpjpeg"}
_DRAWS_TEXT = {"tty", "bin", "xbin", "adf", "idf"}  # any text file is valid input of these
_LOOKS_LIKE_ONE = re.compile(
    rb"\A(\xef\xbb\xbf)?\s*(#EXTM3U|ffconcat\s|\[playlist\]|;FFMETADATA|v=0\s+o=|RTSP|<asx"
    rb"|<\?xml[^>]*>.{0,4000}?<(MPD|smil|asx|CompositionPlaylist|AssetMap|playlist)\b|<MPD\b|<smil\b)",
    re.IGNORECASE | re.DOTALL)


class _OpenedFile:
  """File object that PyAV reads from.

  FFmpeg interprets colons, brackets, percent signs and bytes that are not UTF-8 in names, so it gets no
  path. The suffix is kept, since FFmpeg may guess a format by it.
  """

  def __init__(self, path: pathlib.Path):
    self._file = open(path, "rb")
    ending = path.suffix
    self.name = "media" + (ending if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", ending) else "")
    self.read, self.seek, self.tell = self._file.read, self._file.seek, self._file.tell
    self.close = self._file.close


@contextlib.contextmanager
def open_container(path: str | os.PathLike, kind: str) -> Iterator[InputContainer]:
  """Opens a media file for reading. Bytes in tags that are not UTF-8 become lone surrogates.

  FFmpeg may use no protocol, and no format that names other files, so that only this file is opened,
  whatever it contains.

  Args:
    path: path of a regular file.
    kind: name of the file in messages: Audio or Video.

  Raises:
    InputError: there is no such file, it is empty, cannot be opened, is a playlist, or is not a media
      file. FFmpeg's errors within the `with` block become one as well.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise InputError(f"{kind} {path} is a folder; name a file in it." if path.is_dir() else
                     f"{kind} {path} is not a regular file; save it as one." if path.exists() else
                     f"{kind} {path}: no such file.")
  if path.stat().st_size == 0:
    raise InputError(f"{kind} {path} is empty (0 bytes).")
  what = {"Audio": "sound or video file", "Video": "video file"}[kind]
  try:
    with contextlib.closing(_OpenedFile(path)) as file, av.open(
        file, options={"protocol_whitelist": "none", "format_whitelist": _formats()},
        **_TAGS) as container:
      yield container
  except FFmpegError as error:
    _refuse_playlist(path, kind)
    raise InputError(f"{kind} {path} cannot be decoded ({error.strerror or error}).\n"
                     f"It is not a {what}, or it is damaged; save it again.") from error
  except OSError as error:
    raise InputError(f"{kind} {path} cannot be read: {error.strerror}.") from error


def _refuse_playlist(path: pathlib.Path, kind: str) -> None:
  with open(path, "rb") as file:
    head = file.read(8192)
  if _LOOKS_LIKE_ONE.search(head):
    raise InputError(f"{kind} {path} is a playlist that names other files or addresses, which are not "
                     "opened; give one file that holds the media itself.") from None


@functools.cache
def _formats() -> str:
  """Returns FFmpeg's names of the allowed formats, joined by commas."""
  kept = []
  for name in sorted(av.formats_available - _NAMES_OTHERS - _DRAWS_TEXT):
    try:
      form = av.ContainerFormat(name, "r")
    except ValueError:  # FFmpeg only writes this format
      continue
    if not form.flags & Flags.no_file.value:
      kept.append(name)
  return ",".join(kept)
