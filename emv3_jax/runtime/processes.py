"""Distributed runs: several processes, on one host or many, that run one program on all their devices.

Each process runs the same code on the same request. Results that may differ between processes (files, caches)
are compared before a collective operation, which would otherwise wait forever.
"""

import argparse
from collections.abc import Callable
from typing import TypeVar

import jax
from jax.experimental import multihost_utils
import numpy as np

from emv3_jax.errors import InputError

T = TypeVar("T")


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds `--distributed`, `--coordinator`, `--process_id` and `--num_processes`."""
  parser.add_argument("--distributed", action="store_true",
                      help="several hosts that find each other, as on TPU pods or under SLURM")
  parser.add_argument("--coordinator", metavar="HOST:PORT",
                      help="with --process_id and --num_processes: the address of process 0, for a "
                      "run on several hosts")
  parser.add_argument("--process_id", type=int)
  parser.add_argument("--num_processes", type=int)


def join(flags: argparse.Namespace, *, stop_at_steps: bool = False) -> None:
  """Connects the processes of a run; must be called before JAX initialises its devices.

  Args:
    flags: see `add_flags`.
    stop_at_steps: leaves SIGTERM to JAX's preemption service, by which all processes stop at the same
      step (`training.run.preemption`); otherwise each process handles its own signal.

  Raises:
    InputError: the flags contradict each other, or the other processes do not connect.
  """
  given = [flags.coordinator, flags.num_processes, flags.process_id]
  if flags.distributed and given != [None] * 3:
    raise InputError("--distributed finds the other processes by itself; leave it out, or "
                     "--coordinator, --process_id and --num_processes.")
  if not flags.distributed and given == [None] * 3:
    return
  if not flags.distributed and None in given:
    raise InputError("--coordinator, --process_id and --num_processes go together.")
  jax.config.update("jax_enable_preemption_service", stop_at_steps)
  try:
    jax.distributed.initialize(*given)
  except (RuntimeError, ValueError) as error:
    raise InputError(f"The processes of the run did not come together: {error}") from error


def is_first() -> bool:
  """Returns whether this is process 0, which writes files and logs."""
  return jax.process_index() == 0


def is_distributed() -> bool:
  """Returns whether the run has several processes."""
  # `process_count` makes JAX initialise its devices, which is too early while flags are read.
  return jax.distributed.is_initialized() and jax.process_count() > 1


def any_process(flag: bool) -> bool:
  """Returns whether `flag` is True in any process."""
  if not is_distributed():
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def run_on_all(run: Callable[[], T]) -> T:
  """Calls `run` in every process and returns its result of this process if all calls succeeded.

  Raises:
    InputError: raised by `run`, in this process or another one.
  """
  try:
    result = run()
  except InputError:
    any_process(True)
    raise
  if any_process(False):
    raise InputError("Another process of the run cannot use its inputs; its own message says why.")
  return result
