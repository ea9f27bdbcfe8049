"""Files of the program cache: whether an entry is whole, when it was last used, which make room.

    KEY-cache        a compiled program, as JAX writes it
    KEY-atime        when it was last used, likewise: nanoseconds, 8 bytes
    KEY-cache.sum    checksum, size and time of writing of the entry that was seen whole

An entry of the size and time that its sum names is not read again: a start takes as long whatever
the folder holds. Any other one is.
"""

import contextlib
import pathlib
import zlib

ENTRY, _USED, _SUM = "-cache", "-atime", ".sum"


def in_folder(place: pathlib.Path) -> list[pathlib.Path]:
  """The entries of a folder."""
  return sorted(place.glob(f"*{ENTRY}"))


def is_sealed(entry: pathlib.Path) -> bool:
  """Whether something is known of an entry."""
  return _sum_of(entry).exists()


def seal(entry: pathlib.Path) -> None:
  """Notes an entry as whole.

  Raises:
    OSError: it cannot be read, or its sum not be written.
  """
  time = entry.stat().st_mtime_ns  # before it is read: one that changes meanwhile is read again
  _sum_of(entry).write_text(f"{_checksum(entry)} {time}\n")


def is_whole(entry: pathlib.Path) -> bool:
  """Whether an entry is as it was sealed. One whose time alone is another is sealed again."""
  try:
    checksum, size, *time = _sum_of(entry).read_text().split()
    status = entry.stat()
    if [size, *time] == [str(status.st_size), str(status.st_mtime_ns)]:
      return True
    whole = _checksum(entry) == f"{checksum} {size}"
  except (OSError, ValueError):
    return False
  if whole:
    with contextlib.suppress(OSError):  # a folder that is only read from
      seal(entry)
  return whole


def remove(entry: pathlib.Path) -> None:
  """
  Raises:
    OSError: it cannot be removed.
  """
  for path in (entry, _sum_of(entry), _used_of(entry)):
    path.unlink(missing_ok=True)


def make_room(folder: pathlib.Path, limit: int) -> None:
  """Removes entries of all folders in `folder`, the longest unused first, until they take `limit`
  bytes at most, and what is left of entries that are gone. Others get a time of use, without which
  JAX makes no room."""
  found = []
  for entry in folder.glob(f"*/*{ENTRY}"):
    with contextlib.suppress(OSError):  # other processes make room too
      found.append((_last_used(entry), entry.stat().st_size, entry))
  size = sum(size for _, size, _ in found)
  for _, freed, entry in sorted(found):
    if size <= limit:
      break
    with contextlib.suppress(OSError):  # of a user whose files must stay
      remove(entry)
      size -= freed
  for rest in (*folder.glob(f"*/*{ENTRY}{_SUM}"), *folder.glob(f"*/*{_USED}")):
    entry = rest.with_name(rest.name.removesuffix(_SUM).removesuffix(_USED).removesuffix(ENTRY) + ENTRY)
    if not entry.exists():
      with contextlib.suppress(OSError):
        rest.unlink(missing_ok=True)


def _last_used(entry: pathlib.Path) -> int:
  try:
    return int.from_bytes(_used_of(entry).read_bytes(), "little")
  except FileNotFoundError:
    time = entry.stat().st_mtime_ns
    _used_of(entry).write_bytes(time.to_bytes(8, "little"))
    return time


def _sum_of(entry: pathlib.Path) -> pathlib.Path:
  return entry.with_name(entry.name + _SUM)


def _used_of(entry: pathlib.Path) -> pathlib.Path:
  return entry.with_name(entry.name.removesuffix(ENTRY) + _USED)


def _checksum(entry: pathlib.Path) -> str:
  content = entry.read_bytes()
  return f"{zlib.crc32(content):08x} {len(content)}"
