"""Random keys by what they are for: the same draw on any number of devices and processes.

A key is the seed with the purpose and its indices (step, global example id, latent frame, ...)
folded in. Keys are never split by process or device.
"""

import enum

import jax
from jax.typing import ArrayLike

from emv3_jax.errors import InputError


class Purpose(enum.IntEnum):
  """Everything random in the project. A number, once used, keeps its meaning for ever."""

  PARAMETERS = 0  # a network's initial values
  INITIAL_NOISE = 1  # indices: latent frame
  TRAINING_SIGMA = 2  # indices: step, example
  TRAINING_NOISE = 3  # indices: step, example
  CONDITION_DROPOUT = 4  # indices: step, example
  TASK = 5  # indices: step, example
  PHASE_JITTER = 6  # indices: step, example
  DATA_ORDER = 7  # indices: bucket, epoch


def check_seed(seed: int) -> None:
  """Checks that a seed is in range.

  Raises:
    InputError: it is not.
  """
  if not 0 <= seed < 2**32:
    raise InputError(f"seed is {seed}; it must be from 0 to {2**32 - 1}.")


def key_for(seed: int, purpose: Purpose, *indices: ArrayLike) -> jax.Array:
  """The key of one draw.

  Args:
    seed: 0 to 2^32 - 1. JAX would drop the bits above, so that two larger seeds were one.
    purpose: what is drawn.
    *indices: which draw of that purpose; integers, traced ones too.

  Raises:
    InputError: the seed is out of range.
  """
  check_seed(seed)
  return folded_key(seed, purpose, *indices)


def folded_key(seed: ArrayLike, purpose: Purpose, *indices: ArrayLike) -> jax.Array:
  """The same without a check of the seed, which may be traced; uint32 then."""
  key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), int(purpose))
  for index in indices:
    key = jax.random.fold_in(key, index)
  return key
