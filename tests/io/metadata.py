"""What a video says of itself."""

import json
import os

import av


def metadata_of(path: str | os.PathLike) -> dict:
  """What `write_video` was given as metadata."""
  with av.open(os.fspath(path)) as container:
    return json.loads(container.metadata["comment"])
