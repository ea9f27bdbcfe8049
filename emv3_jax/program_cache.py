"""Compiled programs on disk, so that a second start does not compile.

JAX keys each program by its own text, the compiler's version and options, and the device; what
decides a program (network configs, shapes, settings) is therefore in the key.
"""

import os
import pathlib

from absl import logging
import jax


def use(folder: str | os.PathLike) -> bool:
  """Keeps compiled programs of this process in `folder` and takes them from there.

  A folder that cannot be made or written to means a warning and no cache; a damaged entry is
  compiled again with JAX's warning.

  Args:
    folder: `~` is the home folder; empty turns the cache off.

  Returns:
    Whether the cache is in use.
  """
  if not str(folder):
    return False
  folder = pathlib.Path(folder).expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{os.getpid()}.probe"
    probe.touch()
    probe.unlink()
  except OSError as error:
    logging.warning("Program cache: cannot write to %s (%s); every start compiles.", folder,
                    error.strerror)
    return False
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  return True
