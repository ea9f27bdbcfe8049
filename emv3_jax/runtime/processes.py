"""Several processes, on one host or many, that run one program on all their devices together.

Each runs the same code on the same request; what only one of them can know (a file, a cache) is
agreed on before the devices are asked to work together, or they would wait for each other for ever.
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
  """`--distributed`, or `--coordinator`, `--process_id` and `--num_processes`."""
  parser.add_argument("--distributed", action="store_true",
                      help="several hosts that find each other, as on TPU pods or under SLURM")
  parser.add_argument("--coordinator", metavar="HOST:PORT",
                      help="with --process_id and --num_processes: the address of process 0, for a "
                      "run on several hosts")
  parser.add_argument("--process_id", type=int)
  parser.add_argument("--num_processes", type=int)


def join(flags: argparse.Namespace, *, stop_at_steps: bool = False) -> None:
  """Joins the processes of a run, before anything asks JAX for devices.

  Args:
    flags: see `add_flags`.
    stop_at_steps: leaves SIGTERM to JAX's service, by which processes find a step that they all
      stop at (`training.run.preemption`); else each process hears its own.

  Raises:
    InputError: flags that do not go together, or the others are not there.
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
  """Whether this process is the one that writes."""
  return jax.process_index() == 0


def several() -> bool:
  """Whether there are other processes in this run."""
  # Asking for the count makes JAX look for devices, which is not yet the time while flags are read.
  return jax.distributed.is_initialized() and jax.process_count() > 1


def anywhere(flag: bool) -> bool:
  """Whether `flag` is true in any process."""
  if not several():
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def together(run: Callable[[], T]) -> T:
  """What `run` gives here, once it worked in every process.

  Raises:
    InputError: that of this process, or word that another one had one.
  """
  try:
    result = run()
  except InputError:
    anywhere(True)
    raise
  if anywhere(False):
    raise InputError("Another process of the run cannot use its inputs; its own message says why.")
  return result
