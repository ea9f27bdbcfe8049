"""Files of the program cache: checksums, times of use, and removal of the least recently used entries.

    KEY-cache        a compiled program, as JAX or `executables` writes it
    KEY-atime        time of its last use in nanoseconds, 8 bytes, also written by JAX
    .KEY-cache.XXXXXXXX.part  an entry that a killed process left unfinished
    KEY-cache.sum    checksum, size and modification time of the complete entry, of JAX's entries only

An entry whose size and time are those in its checksum file is not read to verify it, so that the
start-up time does not depend on what the folder holds. Any other entry is read.
"""

import contextlib
import pathlib
import time
import zlib

ENTRY, _USED, _SUM = "-cache", "-atime", ".sum"
_ABANDONED = 24 * 3600  # seconds after which an unfinished entry has no process any more


def in_folder(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the entries of a folder, sorted."""
  return sorted(folder.glob(f"*{ENTRY}"))


def is_sealed(entry: pathlib.Path) -> bool:
  """Returns whether an entry has a checksum file."""
  return _sum_of(entry).exists()


def seal(entry: pathlib.Path) -> None:
  """Writes the checksum file of a complete entry.

  Raises:
    OSError: the entry cannot be read, or its checksum file cannot be written.
  """
  changed = entry.stat().st_mtime_ns  # before reading: an entry that changes meanwhile is verified once more
  _sum_of(entry).write_text(f"{_checksum(entry)} {changed}\n")


def is_whole(entry: pathlib.Path) -> bool:
  """Returns whether an entry has its recorded checksum; if only its time differs, the record is updated."""
  try:
    checksum, size, *changed = _sum_of(entry).read_text().split()
    status = entry.stat()
    if [size, *changed] == [str(status.st_size), str(status.st_mtime_ns)]:
      return True
    whole = _checksum(entry) == f"{checksum} {size}"
  except (OSError, ValueError):
    return False
  if whole:
    with contextlib.suppress(OSError):  # a read-only folder
      seal(entry)
  return whole


def note_use(entry: pathlib.Path, now: int) -> None:
  """Writes the time of an entry's last use, in nanoseconds.

  Raises:
    OSError: it cannot be written.
  """
  _used_of(entry).write_bytes(now.to_bytes(8, "little"))


def remove(entry: pathlib.Path) -> None:
  """Removes an entry and the files beside it.

  Raises:
    OSError: a file cannot be removed.
  """
  for path in (entry, _sum_of(entry), _used_of(entry)):
    path.unlink(missing_ok=True)


def make_room(folder: pathlib.Path, limit: int) -> None:
  """Removes the least recently used entries below `folder` until they take at most `limit` bytes.

  Files that belong to no entry are removed too. Entries without a time of use get one, since JAX
  removes no entries without it.
  """
  found = []
  for entry in folder.glob(f"*/*{ENTRY}"):
    with contextlib.suppress(OSError):  # another process may remove it at the same time
      found.append((_last_used(entry), entry.stat().st_size, entry))
  size = sum(size for _, size, _ in found)
  for _, freed, entry in sorted(found):
    if size <= limit:
      break
    with contextlib.suppress(OSError):  # a file of another user may not be removable
      remove(entry)
      size -= freed
  for rest in (*folder.glob(f"*/*{ENTRY}{_SUM}"), *folder.glob(f"*/*{_USED}")):
    entry = rest.with_name(rest.name.removesuffix(_SUM).removesuffix(_USED).removesuffix(ENTRY) + ENTRY)
    if not entry.exists():
      with contextlib.suppress(OSError):
        rest.unlink(missing_ok=True)
  for unfinished in folder.glob(f"*/.*{ENTRY}.*.part"):
    with contextlib.suppress(OSError):
      if unfinished.stat().st_mtime < time.time() - _ABANDONED:
        unfinished.unlink(missing_ok=True)


def _last_used(entry: pathlib.Path) -> int:
  try:
    return int.from_bytes(_used_of(entry).read_bytes(), "little")
  except FileNotFoundError:
    changed = entry.stat().st_mtime_ns
    note_use(entry, changed)
    return changed


def _sum_of(entry: pathlib.Path) -> pathlib.Path:
  return entry.with_name(entry.name + _SUM)


def _used_of(entry: pathlib.Path) -> pathlib.Path:
  return entry.with_name(entry.name.removesuffix(ENTRY) + _USED)


def _checksum(entry: pathlib.Path) -> str:
  content = entry.read_bytes()
  return f"{zlib.crc32(content):08x} {len(content)}"
