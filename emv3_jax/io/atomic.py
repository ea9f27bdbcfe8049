"""Atomic writing: files appear complete or not at all."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import secrets
from typing import Any

from emv3_jax.errors import InputError


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary path in the folder of `path`, which replaces `path` if the block succeeds.

  The temporary file exists, is empty and keeps the suffix of `path`. An exception in the block
  (interrupts included) removes it and leaves `path` unchanged. Only a killed process leaves a file
  `.NAME.XXXXXXXX.part.SUFFIX` behind.

  Raises:
    InputError: the folder is missing or not writable, `path` is a folder, or the disk is full. An
      OSError of the block becomes one as well, unless it names another file.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise InputError(f"Cannot write {path}: it is a folder; give the name of a file.")
  temporary = temporary_path(path)
  try:
    try:
      os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
      yield temporary
      _replace(temporary, path)
    finally:
      with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        temporary.unlink()
  except OSError as error:
    if error.filename is not None and os.path.abspath(error.filename) != os.path.abspath(temporary):
      raise
    raise InputError(f"Cannot write {path}: {_reason(path, error)}.") from error


@contextlib.contextmanager
def growing_file(path: str | os.PathLike, partial: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields `partial`, which replaces `path` if the block succeeds, and stays if it does not.

  Raises:
    InputError: as `atomic_file`, about `partial`.
  """
  path, partial = pathlib.Path(path), pathlib.Path(partial)
  for file in (path, partial):
    if file.is_dir():
      raise InputError(f"Cannot write {file}: it is a folder; give the name of a file.")
  try:
    yield partial
    _replace(partial, path)
  except OSError as error:
    if error.filename is not None and os.path.abspath(error.filename) != os.path.abspath(partial):
      raise
    raise InputError(f"Cannot write {partial}: {_reason(partial, error)}.") from error


def _replace(written: pathlib.Path, path: pathlib.Path) -> None:
  with open(written, "rb") as file:
    os.fsync(file.fileno())  # a full disk may be reported only here
  os.replace(written, path)


def remove(path: str | os.PathLike) -> None:
  """Removes a file if it exists.

  Raises:
    InputError: `path` cannot be removed: it is a folder, or its folder is not writable.
  """
  try:
    os.unlink(path)
  except FileNotFoundError:
    pass
  except OSError as error:
    raise InputError(f"{os.fspath(path)} is in the way and cannot be removed ({error.strerror}); move it, or "
                     "choose another path.") from error


def temporary_path(path: pathlib.Path) -> pathlib.Path:
  """Returns a new path beside `path` with a longer name and the same suffix."""
  return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes `value` as indented JSON, atomically.

  File names that are not UTF-8 are written with escapes, from which they are read back unchanged.

  Raises:
    InputError: as `atomic_file`.
    TypeError, ValueError: `value` cannot be written as JSON, e.g. because it holds NaN.
  """
  text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
  with atomic_file(path) as temporary:
    # An unpaired surrogate gets the escape \udcff, which is JSON's own too.
    temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _reason(path: pathlib.Path, error: OSError) -> str:
  if not path.parent.exists():
    return f"folder {path.parent} does not exist; make it first"
  return error.strerror or str(error)
