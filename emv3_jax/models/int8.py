"""Weights as int8 with a float32 scale for each output channel: half of the memory of bfloat16.

In a tree of parameters a matrix `kernel` becomes {"int8": [..., in, out], "scale": [..., 1, out]}, an embedding
table {"int8": [rows, d], "scale": [rows, 1]}. The largest magnitude of a channel is 127 scales, so that a weight is
off by half a scale at most. Matrices are float again where they are used: inside the loop over layers, one layer's
at a time. Norms, biases and modulations, and what is outside the layers except umT5's table, stay float.
"""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from emv3_jax.arrays import AnyArray

_KEYS = {"int8", "scale"}
_LEVELS = 127
_SMALLEST = 1e-30  # largest magnitude of a channel of zeros, by which they can be divided


class Int8(nnx.Module):
  """Stands in a layer for the `nnx.Param` of a matrix, and is read like it: `kernel[...]` is float32.

  Args:
    matrix: [..., in, out], or [rows, d].
    axis: the axis that a scale is shared along: -2 of a matrix, -1 of a table.
  """

  def __init__(self, matrix: jax.Array, axis: int):
    pair = quantise(matrix, axis)
    self.int8, self.scale = nnx.Param(pair["int8"]), nnx.Param(pair["scale"])

  def __getitem__(self, index) -> jax.Array:
    scale = self.scale[index]
    return self.int8[index].astype(scale.dtype) * scale

  def rows(self, ids: AnyArray) -> jax.Array:
    """Rows of a table, float32; NaN where there is none, as of `jnp.take`."""
    return jnp.take(self.int8[...], ids, axis=0).astype(jnp.float32) * jnp.take(self.scale[...], ids, axis=0)


def quantise(matrix: AnyArray, axis: int) -> dict[str, AnyArray]:
  """Quantises a float array along `axis`; with numpy on the host the same numbers as with JAX.

  Returns:
    `int8` of its shape, and `scale` float32, 1 along `axis`.
  """
  xp = jnp if isinstance(matrix, jax.Array) else np
  matrix = matrix.astype(np.float32)
  largest = xp.maximum(matrix.max(axis, keepdims=True), -matrix.min(axis, keepdims=True))
  # Products alone: XLA would divide by way of a reciprocal, numpy would not.
  scale = xp.maximum(largest, np.float32(_SMALLEST)) * np.float32(1 / _LEVELS)
  return {"int8": xp.rint(matrix * (np.float32(1) / scale)).astype(np.int8), "scale": scale}


def rounded(matrix: np.ndarray, axis: int) -> np.ndarray:
  """The float32 numbers that quantising an array on the host leaves of it."""
  pair = quantise(matrix, axis)
  return np.asarray(pair["int8"] * pair["scale"])


def quantise_layers(module: nnx.Module) -> None:
  """Makes the matrices of all linear layers of a module, in place, `Int8`."""
  for _, layer in nnx.iter_modules(module):
    if isinstance(layer, nnx.Linear):
      # Another type than the declared one, which is read alike.
      layer.kernel = Int8(layer.kernel[...], -2)  # pyright: ignore[reportAttributeAccessIssue]


def is_pair(node: Any) -> bool:
  """Returns whether a node of a tree of parameters is a quantised array."""
  return isinstance(node, dict) and node.keys() == _KEYS


def float_shapes(tree: Any) -> Any:
  """The tree of the same network without quantisation, as it is stored: shapes, and float32 for quantised arrays."""
  shape = lambda leaf: jax.ShapeDtypeStruct(leaf["int8"].shape, leaf["scale"].dtype) if is_pair(leaf) else leaf
  return jax.tree.map(shape, tree, is_leaf=is_pair)


def of_array(leaf: Any) -> Any:
  """What is said of a quantised array, e.g. its sharding, without that of its scale."""
  return leaf["int8"] if is_pair(leaf) else leaf


def like(array: AnyArray, leaf: Any) -> Any:
  """Quantises `array` if `leaf`, which stands for it in a tree of shapes, is quantised; else returns it."""
  if not is_pair(leaf):
    return array
  return quantise(array, -2 if leaf["scale"].shape[-2] == 1 else -1)
