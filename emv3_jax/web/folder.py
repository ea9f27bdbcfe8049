"""The folder of the page: clips as batches have them, and beside them what the page keeps.

  NAME.mp4, NAME.json, report.jsonl, manifest.jsonl   as `run_sample.py --manifest --out` has them
  queue/NAME.json        jobs of the page
  uploads/ID.*           portraits, voices and videos, decoded and written anew
  previews/, prompts/    of clips that are being made; embeddings of prompts
"""

import os
import pathlib
import re

import filelock

from emv3_jax.errors import InputError
from emv3_jax.io import paths

PLAIN = re.compile(r"[A-Za-z0-9_][\w.-]{0,119}", re.ASCII)  # names of clips and uploads that addresses may have
_PARTS = ("queue", "uploads", "previews", "prompts")
QUOTA = 8 << 30


class Folder:
  """The folder, for one server at a time, which nobody else may enter.

  Args:
    path: created if missing, with mode 0700.
    quota: bytes that all of it may take; beyond it nothing is uploaded and no clip begun.

  Raises:
    InputError: it cannot be created or written to, it holds other files and others may look into it, or another
      server has it.
  """

  def __init__(self, path: str | os.PathLike, quota: int = QUOTA):
    paths.refuse_address(path, "Output folder")
    self.path, self.quota = pathlib.Path(path).absolute(), quota
    self._check_owner()
    try:
      self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
      self.path.chmod(0o700)
      for name in _PARTS:
        (self.path / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
      raise InputError(f"Folder {path} of the page cannot be used: {error.strerror}; choose another --out.") from None
    paths.check_folder(self.path)
    self._lock = filelock.FileLock(self.path / ".page.lock", mode=0o600)
    try:
      self._lock.acquire(timeout=0)
    except filelock.Timeout:
      raise InputError(f"Folder {path} is used by another page; close it, or choose another --out.") from None

  def _check_owner(self) -> None:
    """Raises InputError for a folder of other things, whose mode is not the page's to change."""
    try:
      mode, inside = self.path.stat().st_mode, {entry.name for entry in os.scandir(self.path)}
    except OSError:
      return  # there is none yet, or the next lines tell what is wrong
    if mode & 0o077 and inside and not set(_PARTS) <= inside:
      raise InputError(f"Folder {self.path} is open to others and holds other files; choose an empty one, or close it "
                       f"first: chmod 700 {self.path}")

  def close(self) -> None:
    """Lets another server have the folder."""
    self._lock.release()

  def used(self) -> int:
    """Returns the bytes of all files."""
    found, todo = 0, [self.path]
    while todo:
      for entry in os.scandir(todo.pop()):
        try:
          if entry.is_dir(follow_symlinks=False):
            todo.append(pathlib.Path(entry.path))
          else:
            found += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:  # another process removed it
          continue
    return found

  def check_space(self, more: int = 0) -> None:
    """Checks that there is room for `more` bytes.

    Raises:
      InputError: there is not.
    """
    used = self.used()
    if used + more > self.quota:
      raise InputError(f"The page's folder holds {used / 2**30:.2f} GiB of {self.quota / 2**30:.2f} GiB; delete clips "
                       "that you do not need.")


def is_plain(name: str) -> bool:
  """Returns whether a name from an address may be looked up."""
  return PLAIN.fullmatch(name) is not None and ".." not in name
