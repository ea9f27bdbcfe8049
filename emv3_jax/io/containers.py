"""Media files opened for reading, alike in every release of PyAV."""

import os

import av

# Before release 19 tags that are not UTF-8, as older programs write them, are an error unless
# something else is asked for; since then this is what it does.
_TAGS = {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_container(path: str | os.PathLike) -> av.container.InputContainer:
  """`av.open` for reading. Bytes in tags that are no UTF-8 become lone surrogates.

  Raises:
    av.error.FFmpegError: the file is not there, or no media file.
  """
  return av.open(os.fspath(path), **_TAGS)
