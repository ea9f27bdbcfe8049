"""Checks of the paths that users give, done before any work."""

from collections.abc import Iterable
import os
import pathlib
import re
import stat

from emv3_jax.errors import InputError
from emv3_jax.io.atomic import temporary_path

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def refuse_address(path: str | os.PathLike, what: str) -> None:
  """Checks that a path is not an address.

  Raises:
    InputError: `path` is an address such as gs://bucket/clip.mp4.
  """
  found = _ADDRESS.match(os.fspath(path))
  if found:
    raise InputError(f"{what} {os.fspath(path)} is an address ({found[1]}://), and only files of this machine "
                     "are read and written; copy it, or mount it as a folder.")


def refuse_addresses(config, names: Iterable[str]) -> None:
  """Calls `refuse_address` for fields of a config; messages use the names of the fields."""
  for name in names:
    refuse_address(getattr(config, name), name.capitalize().replace("_", " "))


def expanded(path: str | os.PathLike) -> pathlib.Path:
  """Returns `path` with `~` replaced by the home folder.

  Raises:
    InputError: there is no home folder, because HOME is not set and the user has no entry in the password
      file.
  """
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError:
    raise InputError(f"{os.fspath(path)} is in the home folder, and this user has none; set HOME, or name another "
                     "folder.") from None


def check_input(path: str | os.PathLike, what: str) -> None:
  """Checks that a path is a readable regular file.

  Raises:
    InputError: it does not exist, is a folder, a pipe or a device, or is not readable.
  """
  try:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
      raise InputError(f"{what} {path} is a folder; name a file in it.")
    if not stat.S_ISREG(mode):
      raise InputError(f"{what} {path} is {_kind(mode)}; give a file.")
    with open(path, "rb"):
      pass
  except FileNotFoundError:
    raise InputError(f"{what} {path}: no such file.") from None
  except OSError as error:
    raise InputError(f"{what} {path} cannot be read: {error.strerror}.") from None


def check_output(path: pathlib.Path, inputs: Iterable[str | os.PathLike] = ()) -> None:
  """Checks that a file can be written atomically in an existing folder.

  Args:
    path: path of the file; an existing file will be replaced.
    inputs: files that the command reads.

  Raises:
    InputError: `path` exists and is not a regular file, is one of `inputs` (also by another name or a
      link), or its name is too long.
  """
  _check_name(path)
  try:
    mode = os.stat(path).st_mode
  except FileNotFoundError:
    return
  except OSError as error:
    raise InputError(f"Output {path} cannot be written: {error.strerror}.") from None
  if stat.S_ISDIR(mode):
    raise InputError(f"Output {path} is a folder; name a file in it.")
  if not stat.S_ISREG(mode):
    raise InputError(f"Output {path} is {_kind(mode)}; give the name of a file.")
  read = next((file for file in inputs if file_id(file) == file_id(path)), None)
  if read is not None:
    raise InputError(f"Output {path} is the input {read}; choose another name, it would be replaced.")


def check_folder(folder: pathlib.Path) -> None:
  """Checks that files can be created in an existing folder, by creating one.

  Raises:
    InputError: no file can be created.
  """
  probe = temporary_path(folder / "probe")
  try:
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    probe.unlink()
  except OSError as error:
    raise InputError(f"Output folder {folder} is not writable ({error.strerror}); choose "
                     "another one.") from None


def file_id(path: str | os.PathLike) -> tuple[int, int] | None:
  """Returns an identifier that all names and links of a file share; None if the file does not exist."""
  try:
    found = os.stat(path)
  except (OSError, ValueError):
    return None
  return found.st_dev, found.st_ino


def _check_name(path: pathlib.Path) -> None:
  longest = len(os.fsencode(temporary_path(path).name))
  limit = os.pathconf(path.parent, "PC_NAME_MAX")
  if longest > limit:
    raise InputError(f"Output {path.parent}/{path.name[:40]}...{path.suffix}: the name is {longest - limit} "
                     "bytes too long; choose a shorter one.")


def _kind(mode: int) -> str:
  kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device",
           stat.S_ISBLK: "a device"}
  return next((kind for is_kind, kind in kinds.items() if is_kind(mode)), "not a regular file")
