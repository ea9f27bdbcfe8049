"""Resources of this machine."""

import os
import pathlib

_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")  # of a container


def memory() -> int:
  """Returns the bytes of memory that this process may use."""
  installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  try:
    return min(installed, int(_LIMIT.read_text()))
  except (OSError, ValueError):  # no container, or one without a limit ("max")
    return installed
