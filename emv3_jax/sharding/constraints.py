"""Where activations lie on the mesh, and the gathering of a layer's parameters.

A network calls `constrain` and knows no mesh: `constrain(x, *logical_axes)` pins an activation,
`constrain(module, path)` gathers the parameters of a submodule for use.
"""

from collections.abc import Callable

from flax import nnx
import jax
from jax.sharding import Mesh, NamedSharding

from emv3_jax.errors import InputError
from emv3_jax.models.network import param_name
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.sharding import mesh as mesh_lib
from emv3_jax.sharding import rules

Constrain = Callable[..., jax.Array | nnx.Module]

_GATHERED = ("embed", "features")  # split for storage only


def constrain(mesh: Mesh, precision: Precision = FLOAT32) -> Constrain:
  """The transformer's `constrain` on `mesh`.

  Args:
    mesh: the mesh.
    precision: of the network; parameters are gathered in the compute dtype if that is narrower.

  Returns:
    A callable that raises `InputError` when an axis does not divide over its mesh axes.
  """
  def pin(x, *axes):
    if mesh.size == 1:
      return x
    if isinstance(x, nnx.Module):
      return _gather_module(mesh, precision, x, *axes)
    for size, axis in zip(x.shape, axes, strict=True):
      parts = mesh_lib.degree(mesh, axis)
      if size % parts:
        raise InputError(f"Axis {axis} of {size} in an activation {x.shape} does not divide over "
                         f"{mesh_lib.describe(mesh, axis)} = {parts}.")
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, mesh_lib.spec(*axes)))

  return pin


def _gather_module(mesh: Mesh, precision: Precision, module: nnx.Module, path: str) -> nnx.Module:
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
