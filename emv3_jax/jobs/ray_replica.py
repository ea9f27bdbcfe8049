"""The process of a replica, an actor of Ray: it opens its maker once, and makes one job after the other."""

from collections.abc import Iterator
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import socket
import threading
from typing import Any, Protocol

import jax
import ray

import emv3_jax
from emv3_jax.errors import InputError, Stopped
from emv3_jax.jobs.claims import Claims
from emv3_jax.jobs.making import Making
from emv3_jax.jobs.report import Entry, now
from emv3_jax.jobs.work import Maker, Options
from emv3_jax.runtime import processes

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "av", "ray")


class Setup(Protocol):
  """How a replica makes its maker; can be pickled."""

  def fault(self) -> str:
    """Returns why the maker cannot be opened on this machine, e.g. a folder that is missing; empty if it can."""
    ...

  def begin(self) -> None:
    """Prepares the process before any device is looked for."""

  def open(self) -> Maker:
    """Opens the maker."""
    ...


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a replica runs.

  Attributes:
    host: name of the machine.
    node: address of the node in the cluster.
    pid: process id.
    versions: of Python, of packages, and a digest of this package's code.
    fault: why the maker cannot be opened there; empty if it can.
  """

  host: str
  node: str
  pid: int
  versions: dict[str, str]
  fault: str

  def differences(self, versions: dict[str, str]) -> list[str]:
    """Returns what is of another version than here, e.g. `jax 0.9.1 (here 0.10.2)`."""
    return [f"{name} {self.versions.get(name, 'none')} (here {version})" for name, version in versions.items()
            if self.versions.get(name) != version]


class Replica:
  """Makes jobs in a process of its own.

  Args:
    setup: opens the maker.
    folder: output folder, absolute.
    options: how often jobs are tried.
  """

  def __init__(self, setup: Setup, folder: str, options: Options):
    self._setup, self._folder, self._options = setup, folder, options
    self._making: Making | None = None
    self._stopping = threading.Event()
    self._at: tuple[str, int, int] | None = None

  def look(self) -> Place:
    """Looks at the machine; the maker is not opened."""
    fault = self._setup.fault()
    if not fault and not (os.path.isdir(self._folder) and os.access(self._folder, os.W_OK)):
      fault = (f"folder {self._folder} is missing, or not writable; all nodes need the output folder, on a file system that "
               "they share.")
    self._setup.begin()
    return Place(socket.gethostname(), ray.util.get_node_ip_address(), os.getpid(), versions(), fault)

  def address(self) -> str:
    """Returns HOST:PORT at which the processes of a replica find each other."""
    host = ray.util.get_node_ip_address()
    with socket.socket() as probe:
      probe.bind((host, 0))
      return f"{host}:{probe.getsockname()[1]}"

  def join(self, address: str, count: int, index: int) -> None:
    """Connects this process with the others of its replica, before devices are looked for."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, count, index)

  def make(self, job: Any) -> Entry | None:
    """Makes a job, with the other processes of the replica; returns None if another run is making it.

    Raises:
      InputError: the maker cannot be opened on this machine.
    """
    if self._making is None:
      self._making = Making(self._setup.open(), Claims(self._folder, self._options.claim_seconds),
                            self._options.retries)
    try:
      return self._making.make(job, functools.partial(self._steps, job.name))
    except Stopped:
      return Entry(job.line, job.name, "stopped", "stopped while it was made", finished=now())
    finally:
      self._at = None

  def _steps(self, name: str, steps: Any) -> Iterator:
    for number, step in enumerate(steps, 1):
      if processes.any_process(self._stopping.is_set()):  # all of them before the same step
        raise Stopped("by the run that started it")
      self._at = name, number, len(steps)
      yield step

  @ray.method(concurrency_group="watch")
  def at(self) -> tuple[str, int, int] | None:
    """Returns name, step and number of steps of the job that is being made."""
    return self._at

  @ray.method(concurrency_group="watch")
  def stop(self) -> None:
    """Ends the job that is being made before its next step."""
    self._stopping.set()


def versions() -> dict[str, str]:
  """Returns what has to be the same on all machines, so that their clips are the same."""
  found = {"Python": platform.python_version(), "emv3-jax": emv3_jax.__version__}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "none"
  return {**found, "code of emv3_jax": _code()}


@functools.cache
def _code() -> str:
  digest, root = hashlib.sha256(), pathlib.Path(emv3_jax.__file__).parent
  for path in sorted(root.rglob("*.py")):
    digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
  return digest.hexdigest()[:12]


def check_place(place: Place, here: dict[str, str]) -> None:
  """Checks that jobs can be made where a replica runs.

  Raises:
    InputError: versions differ, or the model or the output folder is not there.
  """
  where = f"Node {place.node} ({place.host})"
  differences = place.differences(here)
  if differences:
    raise InputError(f"{where} has other versions: {', '.join(differences)}.\nInstall the same on all nodes.")
  if place.fault:
    raise InputError(f"{where}: {place.fault}")
