"""Compiled executables on disk with what they were made for, so that a later start loads them without tracing.

Two kinds of entries, both named by the digest of their key:

    a call        key: identity of the program, its arguments, the package's code, and the environment;
                  content: the name of an executable, or nothing where the backend cannot serialise it
    an executable key: the digest of the lowered program, its arguments, and the environment;
                  content: what `jax.experimental.serialize_executable` returns

So a change of the code that leaves a program as it was traces it once and compiles nothing. Each file holds its
key as text and the digest of its content; one whose key differs or whose content is damaged is not used.

JAX's serialised form holds a pickle and machine code, both of which can do whatever the user can. Entries are
therefore read only from a folder of this user (or root) that nobody else may write to, and from such files.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import pickle
import platform
import secrets
import stat
import time
from typing import Any

from absl import logging
import jax
from jax.experimental import serialize_executable
import numpy as np

from emv3_jax.runtime import program_entries

_MAGIC = b"emv3-jax executable 1\n"
_PACKAGE = pathlib.Path(__file__).parents[1]
_VARIABLES = ("XLA_", "LIBTPU_", "TPU_", "CUDA_", "NVIDIA_", "TF_", "OMP_")
# Options of JAX that change neither programs nor what is compiled from them.
_IRRELEVANT = ("cache", "log", "traceback", "dump", "debug_info", "explain", "proxy", "compilation")
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "tokamax")


@dataclasses.dataclass(frozen=True)
class Folder:
  """A folder of executables.

  Attributes:
    path: the folder.
    writable: whether new entries are kept.
    limit: bytes that it and the folders beside it may take.
  """

  path: pathlib.Path
  writable: bool
  limit: int

  def load(self, key: str) -> bytes | None:
    """Returns the content of an entry; None where there is none, or it must not be used."""
    path = self._entry(key)
    try:
      with open(path, "rb") as file:
        if not _is_private(os.fstat(file.fileno())):
          logging.log_first_n(logging.WARNING, "Program cache: %s is another user's, or others may write it; it is "
                              "not used.", 1, path)
          return None
        content = file.read()
    except FileNotFoundError:
      return None
    except OSError as error:
      logging.vlog(1, "Program cache: %s cannot be read (%s).", path, error.strerror)
      return None
    head = _head(key)
    found = content[len(head) + 32:]
    if not content.startswith(head) or hashlib.sha256(found).digest() != content[len(head):len(head) + 32]:
      logging.warning("Program cache: %s is damaged; its program is made anew.", path)
      self.remove(key)
      return None
    self._use(path)
    return found

  def keep(self, key: str, content: bytes) -> None:
    """Writes an entry whole or not at all, and makes room for it; a file that cannot be written is a warning."""
    path = self._entry(key)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
      try:
        with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
          file.write(_head(key) + hashlib.sha256(content).digest() + content)
        os.replace(temporary, path)
      finally:
        temporary.unlink(missing_ok=True)
      self._use(path)
      program_entries.make_room(self.path.parent, self.limit)
    except OSError as error:
      logging.log_first_n(logging.WARNING, "Program cache: %s cannot be written (%s); it is made anew at the next "
                          "start.", 1, path, error.strerror)

  def remove(self, key: str) -> None:
    """Removes an entry, if the folder is writable."""
    if self.writable:
      try:
        program_entries.remove(self._entry(key))
      except OSError as error:
        logging.vlog(1, "Program cache: %s cannot be removed (%s).", self._entry(key), error.strerror)

  def _entry(self, key: str) -> pathlib.Path:
    return self.path / f"{digest(key)}{program_entries.ENTRY}"

  def _use(self, path: pathlib.Path) -> None:
    if self.writable:
      program_entries.note_use(path, time.time_ns())


def open_folder(path: pathlib.Path, writable: bool, limit: int) -> Folder | None:
  """Opens a folder of executables, which is created for this user alone.

  Returns:
    None where it belongs to others, they may write to it, or it is missing and cannot be created.
  """
  try:
    if writable:
      path.mkdir(mode=0o700, exist_ok=True)
    status = path.stat()
  except OSError as error:
    logging.vlog(1, "Program cache: %s cannot be used (%s); every start traces.", path, error.strerror)
    return None
  if not _is_private(status):
    logging.warning("Program cache: %s is another user's, or others may write to it; nothing is loaded from it, and "
                    "every start traces. `chmod go-w` makes your own folder yours alone.", path)
    return None
  return Folder(path, writable, limit)


def key_of(**parts) -> str:
  """The text of a key: JSON of its parts."""
  return json.dumps(parts, sort_keys=True, default=str)


def digest(text: str) -> str:
  """sha256 of a text, in hex."""
  return hashlib.sha256(text.encode()).hexdigest()


def serialise(compiled: jax.stages.Compiled) -> bytes:
  """Serialises an executable that was compiled in this process; one that came from a cache may lack its code.

  Raises:
    Exception: the backend, or the program, cannot be serialised.
  """
  return pickle.dumps((serialize_executable.serialize(compiled), [device.id for device in _devices_of(compiled)]))


def deserialise(content: bytes) -> jax.stages.Compiled:
  """Loads an executable onto the devices that it was compiled for.

  Raises:
    Exception: this release or machine cannot load it.
  """
  serialised, ids = pickle.loads(content)
  found = {device.id: device for device in jax.local_devices()}
  return serialize_executable.deserialize_and_load(
      *serialised, backend=found[ids[0]].client, execution_devices=[found[number] for number in ids])


def _devices_of(compiled: jax.stages.Compiled) -> list[Any]:
  """The devices of an executable in its order, which all shardings of a program share."""
  placed = [found for found in jax.tree.leaves((compiled.output_shardings, compiled.input_shardings))
            if isinstance(found, jax.sharding.Sharding)]
  meshes = [found.mesh for found in placed if isinstance(found, jax.sharding.NamedSharding)]
  return list(np.ravel(np.asarray(meshes[0].devices))) if meshes else sorted(placed[0].device_set, key=lambda device: device.id)


def environment() -> dict:
  """What any executable depends on: versions, machine, devices, and the options of JAX and XLA."""
  devices = jax.local_devices()
  return {
      **_machine(),
      "versions": [jax.__version__, *map(_version, _PACKAGES), platform.python_version()],
      "backend": [devices[0].platform, devices[0].client.platform_version],
      "devices": [[device.id, device.device_kind] for device in devices],
      "variables": {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)},
      "options": {name: str(value) for name, value in jax.config.values.items()
                  if not any(word in name for word in _IRRELEVANT)},
  }


@functools.cache
def code() -> str:
  """Digest of the package's Python files, names and contents."""
  found = hashlib.sha256()
  for path in sorted(_PACKAGE.rglob("*.py")):
    content = path.read_bytes()
    found.update(f"{path.relative_to(_PACKAGE)} {len(content)}\n".encode() + content)
  return found.hexdigest()


@functools.cache
def _machine() -> dict:
  """The processor: XLA compiles for its features, and for the number of cores of the process."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  wanted = ("flags", "Features", "model name", "CPU part")
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return {"processor": [platform.machine(), platform.system(), cores,
                        *(digest(next((line for line in lines if line.startswith(name)), "")) for name in wanted)]}


@functools.cache
def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:  # an optional one
    return ""


def _head(key: str) -> bytes:
  text = key.encode()
  return _MAGIC + len(text).to_bytes(8, "little") + text


def _is_private(status: os.stat_result) -> bool:
  """Returns whether a file or folder is this user's or root's, and nobody else may write to it."""
  owners = {0, os.getuid()} if hasattr(os, "getuid") else {status.st_uid}
  return status.st_uid in owners and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
