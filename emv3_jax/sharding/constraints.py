"""Where activations lie on the mesh, and the gathering of a layer's parameters.

A network calls `constrain` and knows no mesh: `constrain(x, *logical_axes)` pins an activation,
`constrain(module, path)` gathers the parameters of a submodule for use.
"""

from collections.abc import Callable

from flax import nnx
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from emv3_jax.errors import InputError
from emv3_jax.models.network import param_name
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.sharding import mesh as mesh_lib
from emv3_jax.sharding import rules

Constrain = Callable[..., jax.Array | nnx.Module]

_GATHERED = ("embed", "features")  # split for storage only
# Columns before rows: the partitioner reshuffles whole activations when rows are doubled.
_PICTURE = ("batch", "width", "height")


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


def picture_axes(mesh: Mesh, batch: int, size8: tuple[int, int]) -> dict[str, tuple[str, ...]]:
  """How pictures are split: mesh axes of batch, width and height.

  data and fsdp go to the batch where it divides; all other axes split the picture, its columns
  first and its rows where columns do not divide.

  Args:
    mesh: the mesh.
    batch: number of clips.
    size8: (H / 8, W / 8), the size of the latents.

  Raises:
    InputError: neither side divides over an axis.
  """
  left = dict(batch=batch, height=size8[0], width=size8[1])
  axes = {name: () for name in _PICTURE}
  for axis in mesh_lib.AXES:
    parts = mesh.shape[axis]
    if parts == 1:
      continue
    candidates = _PICTURE if axis in mesh_lib.LOGICAL["batch"] else _PICTURE[1:]
    chosen = next((name for name in candidates if left[name] % parts == 0), None)
    if chosen is None:
      raise InputError(
          f"The VAE splits pictures over {axis} {parts}: neither {left['width']} columns nor "
          f"{left['height']} rows of latents ({8 * size8[0]}x{8 * size8[1]} pixels, less what "
          f"other axes split) divide by {parts}. Choose sides that are multiples of "
          f"{8 * mesh.size} pixels, or a smaller {axis}.")
    left[chosen] //= parts
    axes[chosen] += (axis,)
  return axes


def constrain_pictures(mesh: Mesh, batch: int, size8: tuple[int, int]) -> Constrain:
  """The VAE's `constrain` for clips of one size: columns, or rows, are split over the mesh.

  Convolutions then exchange their borders; memory for activations is a share of one device's. The
  attention of the lowest resolution, a hundredth of the work, runs whole on every device.

  Args: as `picture_axes`.

  Raises:
    InputError: the picture cannot be split.
  """
  axes = picture_axes(mesh, batch, size8)

  def pin(x, *names):
    if mesh.size == 1:
      return x
    spec = PartitionSpec(*(axes.get(name) or None for name in names))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

  return pin
