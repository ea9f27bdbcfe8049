"""Claims of jobs: of several runs that write into one folder, one makes an output, never two.

A claim is a file `.NAME.1.claim` in the folder, which its owner creates exclusively and touches as long as it
works. A claim that nobody touches any more is taken over by creating `.NAME.2.claim`, exclusively too: the
highest number counts, so that of several runs that take a job over one gets it, and a run that comes back from
a long sleep sees that it lost the job. Only system calls that network file systems have are used, and no clock is
compared with that of another machine.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import secrets
import socket
import threading
import time

from absl import logging

from emv3_jax.errors import InputError

_TOUCHES = 8  # in the time after which a claim counts as left


@dataclasses.dataclass
class _Seen:
  """A claim of another run as it was seen first, and when by this process's clock."""

  state: tuple
  since: float


class Claim:
  """A job that this process makes; a context manager that gives the claim back.

  Attributes:
    path: the file.
    number: number of the claim; above 1 it was taken over.
  """

  def __init__(self, claims: "Claims", name: str, number: int, path: pathlib.Path, token: str):
    self.name, self.number, self.path, self._claims, self._token = name, number, path, claims, token

  def is_held(self) -> bool:
    """Returns whether nobody has taken the job over."""
    return _token_of(self.path) == self._token and not self._claims.path(self.name, self.number + 1).exists()

  def owner(self) -> str:
    """Describes who has the job."""
    return self._claims.owner(self.name)

  def touch(self) -> None:
    """Shows that the owner is alive."""
    with contextlib.suppress(OSError):
      os.utime(self.path)

  def __enter__(self) -> "Claim":
    return self

  def __exit__(self, *_) -> None:
    self._claims.release(self)


class Claims:
  """Claims in one folder by one process.

  Args:
    folder: the output folder.
    seconds: a claim that nobody touches for so long counts as left.
  """

  def __init__(self, folder: str | pathlib.Path, seconds: float = 120.0):
    self.folder, self.seconds = pathlib.Path(folder), seconds
    self._seen: dict[str, _Seen] = {}
    self._held: set[Claim] = set()
    self._touching: threading.Thread | None = None
    self._lock = threading.Lock()

  def path(self, name: str, number: int) -> pathlib.Path:
    """Returns the path of a claim."""
    return self.folder / f".{name}.{number}.claim"

  def take(self, name: str) -> Claim | None:
    """Claims the job `name`; returns None if another run has it.

    The caller has to look again whether the job is done, because its owner may have finished it meanwhile.

    Raises:
      InputError: no file can be created in the folder.
    """
    number, before = self._last(name), None
    if number:
      before = _content(self.path(name, number))
      if not self._is_left(name, number):
        return None
    claim = self._create(name, number + 1)
    if claim is None:
      return None
    # Of a claim that was given back meanwhile nothing is taken over: another run may have begun at number 1.
    unchanged = not number or before is not None and _content(self.path(name, number)) == before
    if not unchanged or not claim.is_held():
      claim.path.unlink(missing_ok=True)
      return None
    self._seen.pop(name, None)
    with self._lock:
      self._held.add(claim)
      if self._touching is None:
        self._touching = threading.Thread(target=self._touch, name="claims", daemon=True)
        self._touching.start()
    if number:
      self._remove_parts(name)
    return claim

  def owner(self, name: str) -> str:
    """Describes who has the job; empty if nobody has."""
    number = self._last(name)
    found = _read(self.path(name, number)) if number else None
    return f"process {found.get('pid')} on {found.get('host')}" if found else ""

  def release(self, claim: Claim) -> None:
    """Gives a claim back; one that was taken over is left to the others."""
    with self._lock:
      self._held.discard(claim)
    if not claim.is_held():
      return
    for number in range(1, claim.number + 1):  # the own one last: while it is there nobody gets the next number
      self.path(claim.name, number).unlink(missing_ok=True)

  def clear(self, name: str) -> None:
    """Removes what an owner left that ended after the job was done, and before it gave the claim back."""
    if os.path.lexists(self.path(name, 1)):
      claim = self.take(name)
      if claim is not None:
        self.release(claim)

  def _last(self, name: str) -> int:
    number = 0
    while os.path.lexists(self.path(name, number + 1)):
      number += 1
    return number

  def _is_left(self, name: str, number: int) -> bool:
    path = self.path(name, number)
    try:
      state = (number, path.stat().st_mtime_ns)
    except OSError:
      return False  # it was given back right now
    found = _read(path)
    if found is not None and found.get("where") == _where():
      return not _is_alive(found.get("pid"), found.get("started"))
    seen = self._seen.get(name)
    if seen is None or seen.state != state:
      self._seen[name] = seen = _Seen(state, time.monotonic())
    return time.monotonic() - seen.since > self.seconds

  def _create(self, name: str, number: int) -> Claim | None:
    path, token = self.path(name, number), secrets.token_hex(8)
    content = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid()),
               "where": _where(), "token": token}
    try:
      file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
      try:
        os.write(file, json.dumps(content).encode())
      except OSError:
        path.unlink(missing_ok=True)
        raise
      finally:
        os.close(file)
    except FileExistsError:
      return None
    except OSError as error:
      raise InputError(f"{self.folder}: {name} cannot be claimed ({error.strerror}).") from error
    return Claim(self, name, number, path, token)

  def _touch(self) -> None:
    while True:
      time.sleep(self.seconds / _TOUCHES)
      with self._lock:
        held = list(self._held)
      for claim in held:
        claim.touch()

  def _remove_parts(self, name: str) -> None:
    """Removes what an owner that was killed left half-written."""
    own = re.compile(re.escape(f".{name}.") + r"([a-z]+\.)?[0-9a-f]{8}\.part(\.\w+)?")
    for path in self.folder.iterdir():
      if own.fullmatch(path.name):
        path.unlink(missing_ok=True)
    logging.vlog(1, "%s: the claim of a run that ended was taken over.", name)


def _content(path: pathlib.Path) -> bytes | None:
  """Returns the bytes of a claim, none of one whose owner was killed before it wrote them; None if it is gone."""
  try:
    return path.read_bytes()
  except OSError:
    return None


def _read(path: pathlib.Path) -> dict | None:
  try:
    found = json.loads(_content(path) or b"")
  except ValueError:
    return None
  return found if isinstance(found, dict) else None


def _token_of(path: pathlib.Path) -> str | None:
  return (_read(path) or {}).get("token")


def _where() -> str:
  """Identifies the machine since its start, and the process ids as this process sees them."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')} {socket.gethostname()}"
  except OSError:
    return f"unknown {secrets.token_hex(8)}"  # nobody's: processes of this machine cannot be looked up


def _started(pid: int) -> str:
  """Returns the start of a process in ticks, which tells it from a later one of the same id."""
  try:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  except OSError:
    return ""
  return "" if fields[0] == "Z" else fields[19]


def _is_alive(pid, started) -> bool:
  return isinstance(pid, int) and bool(started) and _started(pid) == started
