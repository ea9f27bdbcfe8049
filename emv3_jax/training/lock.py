"""One run at a time in a folder."""

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import pathlib
import socket

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from emv3_jax.errors import InputError

FILE = "lock.json"


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Holds the folder, which is made where absent, for this run, all of whose processes call this.

  The lock is the system's own on WORKDIR/lock.json. It ends with the process that holds it however
  that ends, so none is ever stale; the file tells who holds it, or held it last.

  Raises:
    InputError: another run holds it, or the folder cannot be made or written to.
  """
  held, reason = None, ""
  if jax.process_index() == 0:
    held, reason = _take(workdir)
  if _on_any(bool(reason)):
    raise InputError(reason or f"Process 0 of this run could not use {workdir}; see its message.")
  try:
    yield
  finally:
    if held is not None:
      os.close(held)


def _take(workdir: pathlib.Path) -> tuple[int | None, str]:
  """A descriptor that holds the lock, or why there is none."""
  path = workdir / FILE
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
  except OSError as error:
    return None, (f"--workdir={workdir} cannot be used ({error.strerror}); choose a folder that can "
                  "be written to.")
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    holder = os.read(descriptor, 1000).decode(errors="replace").strip()
    os.close(descriptor)
    return None, (f"Another run is at work in {workdir}: {holder or 'unknown'}. Wait for it, stop "
                  "it, or choose another --workdir.")
  except OSError as error:
    logging.warning("%s: this file system has no locks (%s); see to it yourself that one run at a "
                    "time works there.", workdir, error.strerror)
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
  return descriptor, ""


def _on_any(fault: bool) -> bool:
  """Whether process 0 has a fault; all processes learn it."""
  if jax.process_count() == 1:
    return fault
  return bool(multihost_utils.broadcast_one_to_all(np.bool_(fault)))
