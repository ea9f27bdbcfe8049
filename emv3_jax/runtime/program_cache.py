"""The cache of compiled programs on disk, so that a second start neither compiles nor traces.

There are two folders for versions and machine: one of JAX's persistent compilation cache, and beside it one of
executables that are loaded without tracing, see `kept_programs`. What follows is about JAX's.

JAX's key of a program holds its text, the compiler's version and options, and the device; everything
that a program depends on (network configs, shapes, settings) is therefore in the key. The folder's
name also holds versions and, for CPUs, the processor's features. Damaged or unfinished entries are
removed before they are read; if the folder is full, the least recently used entries are removed.
`program_entries` describes the files.
"""

import functools
import logging as std_logging
import os
import pathlib
import platform
import threading
import zlib

from absl import logging
import jax
from jax.experimental.compilation_cache import compilation_cache

from emv3_jax.errors import InputError
from emv3_jax.io import paths
from emv3_jax.runtime import executables, kept_programs, processes, program_entries, start_up

_COMPILED = "/jax/core/compile/backend_compile_duration"
# JAX reports a cache miss, before it compiles, only as a message of this logger.
_COMPILER, _MISS = "jax._src.compiler", "PERSISTENT COMPILATION CACHE MISS"
_PATIENCE = 1.0  # seconds of compiling after which a message is logged
LIMIT_MIB = 4096  # default limit of a folder


def use(folder: str | os.PathLike, *, required: bool = False, limit_mib: int = LIMIT_MIB) -> bool:
  """Caches compiled programs of this process in `folder`.

  From a read-only folder programs are only read, with a warning. Damaged entries are removed, with a
  warning, and recompiled.

  Args:
    folder: `~` is the home folder; empty turns the cache off.
    required: whether a folder that cannot be used is an error, not a warning.
    limit_mib: limit of the entries' size in MiB: at the start of all versions and machines together, then
      of this one. The least recently used entries are removed first.

  Returns:
    Whether the cache is in use.

  Raises:
    InputError: the folder cannot be used, and `required` is True.
  """
  kept_programs.folder = None  # another folder may have been in use
  if not str(folder):
    return False
  try:
    directory = paths.expanded(folder) / _machine()
    writable = _make(directory)
    if writable:
      program_entries.make_room(directory.parent, limit_mib << 20)
    _remove_damaged(directory, writable)
  except (InputError, OSError) as error:
    reason = f"Program cache {folder} cannot be used ({getattr(error, 'strerror', None) or str(error).rstrip('.')})"
    if required:
      raise InputError(f"{reason}; name a folder with --config.program_cache=DIR, or none with "
                       "--config.program_cache=") from error
    logging.warning("%s; every start compiles.", reason)
    return False
  if not writable:
    logging.warning("Program cache %s is read-only: programs are taken from it, new ones are not "
                    "kept.", folder)
  jax.config.update("jax_compilation_cache_dir", str(directory))
  jax.config.update("jax_compilation_cache_max_size", limit_mib << 20 if writable else -1)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0 if writable else 1e9)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  compilation_cache.reset_cache()
  kept_programs.folder = executables.open_folder(
      directory.with_name(f"executables-{directory.name}"), writable, limit_mib << 20)
  kept_programs.on_build = _announcer().on_miss
  if writable:
    _seal_when_compiled(directory)
  _announcer().kept = f"are cached in {folder}" if writable else "cannot be cached"
  return True


class Announcer:
  """Logs that programs are being compiled: one line for each kind of work.

  The first line also says whether the programs are cached. Programs from the cache are not mentioned.

  Attributes:
    kept: the end of the first line, which says whether the programs are cached.
  """

  def __init__(self, patience: float = _PATIENCE):
    self.kept, self._patience = "", patience
    self._announced: set[str] = set()
    self._timer: threading.Timer | None = None

  def on_miss(self) -> None:
    """Starts the timer of the message for a program that is not in the cache and is compiled now."""
    if start_up.work not in self._announced:
      self._stop()
      self._timer = threading.Timer(self._patience, self._announce, (start_up.work,))
      self._timer.daemon = True
      self._timer.start()

  def on_duration(self, event: str, *_, **__) -> None:
    if event == _COMPILED:
      self._stop()

  def _stop(self) -> None:
    if self._timer is not None:
      self._timer.cancel()

  def _announce(self, work: str) -> None:
    kept = "" if self._announced else f", once for sizes and settings like these; they {self.kept}"
    self._announced.add(work)
    if processes.is_first():
      logging.info("Building programs%s%s.", f" ({work[0].lower()}{work[1:]})" if work else "", kept)


@functools.cache
def _announcer() -> Announcer:
  """Returns the announcer of this process."""
  announcer = Announcer()
  compiler = std_logging.getLogger(_COMPILER)
  above = compiler.parent or std_logging.getLogger()

  def handle(record: std_logging.LogRecord) -> bool:
    """Reports cache misses, and returns whether the logger's own level lets the record through."""
    if str(record.msg).startswith(_MISS):
      announcer.on_miss()
    return record.levelno >= above.getEffectiveLevel()

  compiler.addFilter(handle)
  compiler.setLevel(std_logging.DEBUG)
  jax.monitoring.register_event_duration_secs_listener(announcer.on_duration)
  return announcer


def _machine() -> str:
  """Returns the name of the folder for programs of these versions and this kind of machine."""
  name = f"jax-{jax.__version__}-{platform.machine()}"
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return name
  flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
  return f"{name}-{zlib.crc32(flags.encode()):08x}"


def _make(directory: pathlib.Path) -> bool:
  """Creates the folder if missing; returns whether it is writable.

  Raises:
    OSError: it cannot be created, or it is neither writable nor holds entries.
  """
  try:
    directory.mkdir(parents=True, exist_ok=True)
    probe = directory / f".{os.getpid()}.probe"
    probe.touch()
    probe.unlink()
  except OSError:
    if directory.is_dir() and program_entries.in_folder(directory):
      return False
    raise
  return True


def _remove_damaged(directory: pathlib.Path, writable: bool) -> None:
  """Removes damaged entries, with a warning.

  Raises:
    OSError: there are damaged entries in a folder that is not writable.
  """
  entries = program_entries.in_folder(directory)
  damaged = [entry for entry in entries if not program_entries.is_whole(entry)]
  if not damaged:
    return
  if not writable:
    raise OSError(f"{len(damaged)} of its {len(entries)} programs are damaged")
  for entry in damaged:
    program_entries.remove(entry)
  logging.warning("Program cache %s: %d of %d programs were damaged or unfinished and are "
                  "recompiled.", directory, len(damaged), len(entries))


@functools.cache
def _seal_when_compiled(directory: pathlib.Path) -> None:
  """Writes the checksums of new entries after each compilation."""
  def seal(event: str, *_, **__):
    # JAX adds this option to the class at import, where type checkers do not see it.
    current = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if event == _COMPILED and current == str(directory):
      for entry in program_entries.in_folder(directory):
        if not program_entries.is_sealed(entry):
          _seal(entry)

  jax.monitoring.register_event_duration_secs_listener(seal)


def _seal(entry: pathlib.Path) -> None:
  try:
    program_entries.seal(entry)
  except OSError as error:
    logging.log_first_n(logging.WARNING, "Program cache: %s cannot be written (%s); it is "
                        "recompiled at the next start.", 1, entry, error.strerror)
