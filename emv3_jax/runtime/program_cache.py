"""The cache of compiled programs on disk, so that a second start does not compile.

JAX keys each program by its own text, the compiler's version and options, and the device; what
decides a program (network configs, shapes, settings) is therefore in the key. Versions and, for
CPUs, the processor's abilities are in the name of the folder too. An entry that was damaged, or left
unfinished, is removed before anything reads it; one that was not used for longest, where the folder
is full. See `program_entries` for what is beside them.
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
from emv3_jax.runtime import processes, program_entries, start_up

_COMPILED = "/jax/core/compile/backend_compile_duration"
# JAX has no event between looking into the cache and compiling, only a message to this logger.
_COMPILER, _MISS = "jax._src.compiler", "PERSISTENT COMPILATION CACHE MISS"
_PATIENCE = 1.0  # seconds that a program is built before there is a line about it


LIMIT_MIB = 4096  # of a folder, where nothing else is said


def use(folder: str | os.PathLike, *, required: bool = False, limit_mib: int = LIMIT_MIB) -> bool:
  """Caches compiled programs of this process in `folder`.

  A folder that is only readable is read from, with a warning. Damaged entries are removed, with a
  warning, and compiled again.

  Args:
    folder: `~` is the home folder; empty turns the cache off.
    required: whether a folder that cannot be used is an error, not a warning.
    limit_mib: MiB that programs may take: at the start those of all versions and machines, then those
      of this one; the longest unused ones go first.

  Returns:
    Whether the cache is in use.

  Raises:
    InputError: the folder cannot be used, and `required`.
  """
  if not str(folder):
    return False
  try:
    place = paths.expanded(folder) / _machine()
    writable = _make(place)
    if writable:
      program_entries.make_room(place.parent, limit_mib << 20)
    _remove_damaged(place, writable)
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
  jax.config.update("jax_compilation_cache_dir", str(place))
  jax.config.update("jax_compilation_cache_max_size", limit_mib << 20 if writable else -1)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0 if writable else 1e9)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  compilation_cache.reset_cache()  # where another folder was in use
  if writable:
    _seal_when_compiled(place)
  _announcer().kept = f"are cached in {folder}" if writable else "cannot be cached"
  return True


class Announcer:
  """Says that programs are being built, while they are: a line for each kind of work, of which the
  first tells what becomes of them. Nothing is said of programs that the cache has.

  Attributes:
    kept: what becomes of the programs.
  """

  def __init__(self, patience: float = _PATIENCE):
    self.kept, self._patience = "", patience
    self._told: set[str] = set()
    self._timer: threading.Timer | None = None

  def on_miss(self) -> None:
    """Handles a program that is not in the cache and is compiled now."""
    if start_up.work not in self._told:
      self._stop()
      self._timer = threading.Timer(self._patience, self._tell, (start_up.work,))
      self._timer.daemon = True
      self._timer.start()

  def on_duration(self, event: str, *_, **__) -> None:
    if event == _COMPILED:
      self._stop()

  def _stop(self) -> None:
    if self._timer is not None:
      self._timer.cancel()

  def _tell(self, work: str) -> None:
    kept = "" if self._told else f", once for sizes and settings like these; they {self.kept}"
    self._told.add(work)
    if processes.is_first():
      logging.info("Building programs%s%s.", f" ({work[0].lower()}{work[1:]})" if work else "", kept)


@functools.cache
def _announcer() -> Announcer:
  """Returns the announcer of this process."""
  announcer = Announcer()
  compiler = std_logging.getLogger(_COMPILER)
  above = compiler.parent or std_logging.getLogger()

  def hear(record: std_logging.LogRecord) -> bool:
    """Lets through what would be without this."""
    if str(record.msg).startswith(_MISS):
      announcer.on_miss()
    return record.levelno >= above.getEffectiveLevel()

  compiler.addFilter(hear)
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


def _make(place: pathlib.Path) -> bool:
  """Creates the folder if missing; returns whether it is writable.

  Raises:
    OSError: it cannot be made, or is neither writable nor holds anything.
  """
  try:
    place.mkdir(parents=True, exist_ok=True)
    probe = place / f".{os.getpid()}.probe"
    probe.touch()
    probe.unlink()
  except OSError:
    if place.is_dir() and program_entries.in_folder(place):
      return False
    raise
  return True


def _remove_damaged(place: pathlib.Path, writable: bool) -> None:
  """
  Raises:
    OSError: there are damaged entries that cannot be removed.
  """
  entries = program_entries.in_folder(place)
  damaged = [entry for entry in entries if not program_entries.is_whole(entry)]
  if not damaged:
    return
  if not writable:
    raise OSError(f"{len(damaged)} of its {len(entries)} programs are damaged")
  for entry in damaged:
    program_entries.remove(entry)
  logging.warning("Program cache %s: %d of %d programs were damaged or unfinished and are compiled "
                  "again.", place, len(damaged), len(entries))


@functools.cache
def _seal_when_compiled(place: pathlib.Path) -> None:
  """Writes the checksums of new entries after each compilation."""
  def seal(event: str, *_, **__):
    # JAX adds its options to the class when it is imported.
    now = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if event == _COMPILED and now == str(place):
      for entry in program_entries.in_folder(place):
        if not program_entries.is_sealed(entry):
          _seal(entry)

  jax.monitoring.register_event_duration_secs_listener(seal)


def _seal(entry: pathlib.Path) -> None:
  try:
    program_entries.seal(entry)
  except OSError as error:
    logging.log_first_n(logging.WARNING, "Program cache: %s cannot be written (%s); it is compiled "
                        "again at the next start.", 1, entry, error.strerror)
