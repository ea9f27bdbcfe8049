"""One run at a time in a folder.

Written here because the library filelock does not tell who holds a lock, nor goes on with a warning
where a file system has none.
"""

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import pathlib
import socket

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.runtime import processes

FILE = "lock.json"


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Holds the folder, which is made where absent, for this run, all of whose processes call this.

  The lock is the system's own on WORKDIR/lock.json. It ends with the process that holds it however
  that ends, so none is ever stale; the file tells who holds it, or held it last.

  Raises:
    InputError: another run holds it, or the folder cannot be made or written to.
  """
  held = processes.run_on_all(lambda: _take(workdir) if processes.is_first() else None)
  try:
    yield
  finally:
    if held is not None:
      os.close(held)


def _take(workdir: pathlib.Path) -> int:
  """A descriptor that holds the lock."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(workdir / FILE, os.O_RDWR | os.O_CREAT, 0o666)
  except OSError as error:
    raise InputError(f"--workdir={workdir} cannot be used ({error.strerror}); choose a folder that "
                     "can be written to.") from error
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    holder = os.read(descriptor, 1000).decode(errors="replace").strip() or "unknown"
    os.close(descriptor)
    raise InputError(f"Another run is at work in {workdir}: {holder}. Wait for it, stop it, or "
                     "choose another --workdir.") from None
  except OSError as error:
    logging.warning("%s: this file system has no locks (%s); see to it yourself that one run at a "
                    "time works there.", workdir, error.strerror)
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
  return descriptor
