"""Configuration of a network's execution: attention, sharding, rematerialisation.

The defaults run a network on one device. `emv3_jax.sharding.on_mesh` makes the object for a mesh; a
network passes it through its layers and knows no mesh itself.
"""

import dataclasses
from typing import Literal, Protocol, TypeVar, get_args, runtime_checkable

from flax import nnx
import jax

from emv3_jax.attention.local import Attend, attend_blocked

ATTENTION = "attention"  # checkpoint name of the self-attention output
Remat = Literal["none", "full", "attention", "dots_saveable", "dots_with_no_batch_dims_saveable"]
REMAT_POLICIES = {
    "full": None,
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENTION),
    "dots_saveable": jax.checkpoint_policies.dots_saveable,
    "dots_with_no_batch_dims_saveable":
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}

_Module = TypeVar("_Module", bound=nnx.Module)


@runtime_checkable
class Constrain(Protocol):
  """Pins the sharding of an activation; the numbers stay the same."""

  def __call__(self, array: jax.Array, /, *logical_axes: str | None) -> jax.Array:
    """Returns the array, constrained.

    Args:
      array: the activation.
      *logical_axes: a name for each of its axes (batch, length, heads, mlp; of the VAE's pictures
        batch, height, width), None for an axis that is not split.
    """
    ...


@runtime_checkable
class Gather(Protocol):
  """Gathers the parameters of a submodule where they are used, in the compute dtype."""

  def __call__(self, module: _Module, path: str, /) -> _Module:
    """Returns the submodule, its parameters whole.

    Args:
      module: the submodule, its parameters as they are stored.
      path: dotted name of the submodule in the network, e.g. `blocks.cross_attn`.
    """
    ...


def unconstrained(array: jax.Array, /, *logical_axes: str | None) -> jax.Array:
  """`Constrain` of one device: returns the array."""
  return array


def ungathered(module: _Module, path: str, /) -> _Module:
  """`Gather` of one device: returns the module."""
  return module


@dataclasses.dataclass(frozen=True)
class ExecutionConfig:
  """Settings of the transformer's execution; the outputs are the same up to rounding.

  Attributes:
    attend: self-attention; on a mesh it also moves tokens between devices.
    cross_attend: attention to text and image, whose keys every device holds.
    constrain: pins activations; logical axes are batch, length, heads, mlp or None.
    gather: gathers a submodule's parameters.
    remat: what the backward pass recomputes: `none`, `full`, `attention` (all but the
      self-attention), or a policy of jax.checkpoint_policies: `dots_saveable`,
      `dots_with_no_batch_dims_saveable`.
    token_blocks: number of slices of the tokens that each half of a layer works on in turn.
    length_shards: number of devices that the token axis is split over.

  Raises:
    ValueError: an unknown `remat`.
  """

  attend: Attend = attend_blocked
  cross_attend: Attend = attend_blocked
  constrain: Constrain = unconstrained
  gather: Gather = ungathered
  remat: Remat = "none"
  token_blocks: int = 1
  length_shards: int = 1

  def __post_init__(self):
    if self.remat not in get_args(Remat):
      raise ValueError(f"remat is {self.remat!r}; known: {', '.join(get_args(Remat))}.")


ONE_DEVICE = ExecutionConfig()
