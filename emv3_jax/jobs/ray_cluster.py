"""The Ray cluster that jobs run on: one that is there, or one on this machine that ends with the run."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import importlib.util
import logging as std_logging
import os
import secrets
import signal
import socket
import sys
from typing import Any
import warnings

from absl import logging

from emv3_jax.errors import InputError

_CONNECT_SECONDS = 10.0
# Read by Ray when it is imported. The second keeps a local cluster to 127.0.0.1; without it Ray binds all interfaces.
_LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Only the processes of replicas are started, and with the priority that the command has.
_PROCESSES = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0", "RAY_worker_niceness": "0"}


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
  """Which cluster, and what a replica takes of it.

  Attributes:
    address: HOST:PORT of a cluster, or `auto`; empty takes RAY_ADDRESS, and without it a cluster on this machine.
    replicas: number of replicas; None for as many as fit.
    gpus_per_replica: GPUs of each process of a replica; None for 1 where the cluster has GPUs.
    processes: processes of a replica, e.g. the hosts of a TPU slice.
  """

  address: str = ""
  replicas: int | None = None
  gpus_per_replica: int | None = None
  processes: int = 1

  def __post_init__(self):
    if self.replicas is not None and self.replicas < 1:
      raise InputError(f"--replicas is {self.replicas}; it must be 1 or more.")
    if self.gpus_per_replica is not None and self.gpus_per_replica < 0:
      raise InputError(f"--gpus_per_replica is {self.gpus_per_replica}; it must be 0 or more.")
    if self.processes < 1:
      raise InputError(f"--processes_per_replica is {self.processes}; it must be 1 or more.")


def require() -> None:
  """Raises InputError if Ray is not installed."""
  # It is not imported: Ray reads the environment that `connected` sets when it is.
  if importlib.util.find_spec("ray") is None:
    raise InputError("--engine=ray needs Ray, which is not installed: pip install 'emv3-jax[ray]'.")


@contextlib.contextmanager
def connected(config: ClusterConfig) -> Iterator[Any]:
  """Connects to the cluster, and yields the module `ray`; a cluster on this machine ends with the block.

  The token of a local cluster is drawn for it, and is only in the environment of its processes.

  Raises:
    InputError: Ray is not installed, or no cluster answers.
  """
  address = config.address or os.environ.get("RAY_ADDRESS", "")
  added = {"RAY_USAGE_STATS_ENABLED": "0"} if address else {**_LOCAL, **_PROCESSES}
  if not address and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
    added |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
  require()
  with _environment(added):
    import ray
    handler = signal.getsignal(signal.SIGTERM)
    if address:
      _check_address(address)
    std_logging.getLogger("ray").setLevel(std_logging.ERROR)
    try:
      with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "os.fork")  # JAX warns of it; Ray starts other programs, which is safe
        ray.init(address=address or "local", include_dashboard=None if address else False, log_to_driver=False,
                 configure_logging=False)
    except Exception as error:  # Ray raises errors of many kinds for a cluster that cannot be used
      message = next(iter(str(error).splitlines()), type(error).__name__)
      raise InputError(f"The Ray cluster {address or 'of this machine'} cannot be used: {message[:300]}\n"
                       "Check --ray_address, that the versions of Ray and Python are the same, and the token "
                       "(RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH).") from None
    try:
      _restore(handler)  # Ray exits at SIGTERM by itself
      yield ray
    finally:
      ray.shutdown()
      _restore(handler)


def _restore(handler) -> None:
  with contextlib.suppress(ValueError):  # not in the main thread, where Ray sets none either
    signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
  """Sets variables that are not set, and removes them afterwards."""
  missing = {name: value for name, value in added.items() if name not in os.environ}
  os.environ.update(missing)
  try:
    yield
  finally:
    for name in missing:
      os.environ.pop(name, None)


def _check_address(address: str) -> None:
  if "://" in address:
    raise InputError("The address of the Ray cluster has the form HOST:PORT, or is auto; run the command on a machine "
                     "of the cluster (ray job submit), not through ray://.")
  host, _, port = address.rpartition(":")
  if address == "auto":
    return
  if not host or not port.isdecimal() or int(port) > 65535:
    raise InputError(f"The address of the Ray cluster is {address}; give HOST:PORT, for example 10.0.0.5:6379.")
  try:
    socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
  except OSError as error:
    raise InputError(f"No Ray cluster answers at {address} ({error.strerror or error}); start one with `ray start`, or leave "
                     "--ray_address and RAY_ADDRESS out for one on this machine.") from None


@dataclasses.dataclass(frozen=True)
class Share:
  """What a process of a replica takes, and how many replicas fit.

  Attributes:
    options: options of Ray's actor: `num_cpus`, `num_gpus` or `resources`.
    fit: number of replicas that the nodes have room for.
  """

  options: dict[str, Any]
  fit: int


def share(nodes: list[dict], config: ClusterConfig) -> Share:
  """Returns the share of a replica: GPUs, or all TPU chips of a host, or one replica a node without either.

  Args:
    nodes: as `ray.nodes()` returns them.
    config: the flags.

  Raises:
    InputError: no node has room for a replica, and the number of replicas is not given.
  """
  resources = [node["Resources"] for node in nodes if node["Alive"]]
  gpus = [int(found.get("GPU", 0)) for found in resources]
  chips = sorted({int(found["TPU"]) for found in resources if found.get("TPU")})
  wanted = config.gpus_per_replica
  if wanted is None:
    wanted = 1 if any(gpus) else 0
  if wanted:
    options, fit = {"num_gpus": wanted, "num_cpus": 1}, sum(count // wanted for count in gpus)
  elif chips and not any(gpus):
    options, fit = {"resources": {"TPU": chips[0]}, "num_cpus": 1}, sum(
        int(found.get("TPU", 0)) // chips[0] for found in resources)
  else:
    options, fit = {"num_gpus": 0, "num_cpus": 1}, sum(found.get("CPU", 0) >= 1 for found in resources)
  fit //= config.processes
  if not fit and config.replicas is None:
    need = f"{wanted} GPUs" if wanted else "a CPU"
    need += f" for each of {config.processes} processes" if config.processes > 1 else ""
    raise InputError(f"No node of the cluster has room for a replica ({need}); the most that one has are {max(gpus, default=0)} "
                     "GPUs. Choose another --gpus_per_replica, or give --replicas to wait for nodes.")
  return Share(options, fit)


def describe(nodes: list[dict]) -> str:
  """Describes the nodes in a few words."""
  alive = [node for node in nodes if node["Alive"]]
  total = lambda name: int(sum(node["Resources"].get(name, 0) for node in alive))
  logging.vlog(1, "Nodes: %s", [node["NodeManagerAddress"] for node in alive])
  return f"{len(alive)} nodes with {total('CPU')} CPUs, {total('GPU')} GPUs and {total('TPU')} TPU chips"
