"""Constraints on the sharding of activations, and the gathering of a layer's parameters.

A network knows no mesh: it calls the two functions made here, which are fields of the
`emv3_jax.models.execution.ExecutionConfig` that it is run with.
"""

from typing import TypeVar

from flax import nnx
import jax
from jax.sharding import Mesh, NamedSharding

from emv3_jax.errors import InputError
from emv3_jax.models.execution import Constrain, Gather, unconstrained, ungathered
from emv3_jax.models.network import param_name
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.sharding import mesh as mesh_lib
from emv3_jax.sharding import rules

_Module = TypeVar("_Module", bound=nnx.Module)
_GATHERED = ("embed", "features")  # split for storage only


def activation_constraint(mesh: Mesh) -> Constrain:
  """The transformer's `constrain` on `mesh`.

  Returns:
    A callable that raises `InputError` when an axis does not divide over its mesh axes.
  """
  if mesh.size == 1:
    return unconstrained

  def constrain(array, *logical_axes):
    for size, axis in zip(array.shape, logical_axes, strict=True):
      parts = mesh_lib.degree(mesh, axis)
      if size % parts:
        raise InputError(
            f"Axis {axis} of {size} in an activation {array.shape} does not divide over "
            f"{mesh_lib.describe(mesh, axis)} = {parts}.")
    sharding = NamedSharding(mesh, mesh_lib.spec(*logical_axes))
    return jax.lax.with_sharding_constraint(array, sharding)

  return constrain


def parameter_gather(mesh: Mesh, precision: Precision = FLOAT32) -> Gather:
  """The transformer's `gather` on `mesh`.

  Args:
    mesh: the mesh.
    precision: of the network; parameters are gathered in the compute dtype if that is narrower.

  Returns:
    A callable that makes a submodule's parameters whole along the model width; heads and hidden
    axes stay split over tensor.
  """
  if mesh.size == 1:
    return ungathered

  def gather(module: _Module, path: str, /) -> _Module:
    return _gather_module(mesh, precision, module, path)

  return gather


def _gather_module(mesh: Mesh, precision: Precision, module: _Module, path: str) -> _Module:
  """`module`, at `path` in the transformer, with parameters whole along the embed axes."""
  def leaf(leaf_path, value):
    name = f"{path}.{param_name(leaf_path).removesuffix('.value')}"
    axes = rules.axes_of(name)
    if not set(axes) & set(_GATHERED):
      return value
    kept = tuple(None if axis in _GATHERED else axis for axis in axes)
    narrow = min(value.dtype, precision.compute_dtype, key=lambda dtype: dtype.itemsize)
    split, whole = (NamedSharding(mesh, mesh_lib.spec(*a)) for a in (axes, kept))
    return _gather(value, split, whole, narrow)

  return jax.tree_util.tree_map_with_path(leaf, module)


def _gather(value: jax.Array, split: NamedSharding, whole: NamedSharding, dtype) -> jax.Array:
  """Cast, then gathered; the gradient is scattered, then cast back."""
  pin = jax.lax.with_sharding_constraint

  @jax.custom_vjp
  def gather(value):
    # Pinned before and after: otherwise the partitioner may gather first and cast then.
    return pin(pin(value.astype(dtype), split), whole)

  def forward(value):
    return gather(value), None

  def backward(_, gradient):
    return (pin(gradient, split).astype(value.dtype),)

  gather.defvjp(forward, backward)
  return gather(value)
