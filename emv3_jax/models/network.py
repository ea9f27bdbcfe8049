"""The bridge between NNX modules and nested dicts of arrays.

Outside a network, parameters are plain nested dicts: the attribute path is the parameter path
(`blocks.self_attn.q.kernel`), stacked layers have a leading `[layers]` axis. This module is the
only place that knows both forms.
"""

from collections.abc import Callable
import functools
import math
from typing import Any, Generic, TypeVar

from flax import nnx
import jax
import numpy as np

from emv3_jax.models import int8

Params = dict[str, Any]  # nested; leaves are arrays, or what stands for one: shapes, leaves on disk
_Module = TypeVar("_Module", bound=nnx.Module)


def param_name(path) -> str:
  """Dotted name of a tree path, e.g. `blocks.self_attn.q.kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator=".")


def named_leaves(tree, is_leaf: Callable[[Any], bool] | None = None) -> dict:
  """Flattens a nested dict to `{dotted name: leaf}`; `is_leaf` says what else is a leaf."""
  return {param_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)}


def nested(named: dict) -> dict:
  """Inverse of `named_leaves` for dicts: `{"a.b": x}` becomes `{"a": {"b": x}}`."""
  tree = {}
  for name, leaf in named.items():
    *folders, last = name.split(".")
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[last] = leaf
  return tree


def check_params(params: Params, abstract: Params) -> None:
  """Checks that names and shapes of `params` are those of `abstract`.

  `nnx.merge` matches leaves by position, so a missing and an extra name could cancel out unseen.

  Raises:
    ValueError: lists every missing, unexpected and misshapen name.
  """
  got = {name: tuple(leaf.shape) for name, leaf in named_leaves(params).items()}
  want = {name: tuple(leaf.shape) for name, leaf in named_leaves(abstract).items()}
  faults = [f"missing {name} {want[name]}" for name in want.keys() - got.keys()]
  faults += [f"unexpected {name} {got[name]}" for name in got.keys() - want.keys()]
  faults += [f"{name}: found {got[name]}, expected {want[name]}"
             for name in got.keys() & want.keys() if got[name] != want[name]]
  if faults:
    raise ValueError("Parameters do not fit the network:\n  " + "\n  ".join(sorted(faults)))


class Network(Generic[_Module]):
  """An NNX module seen from outside: abstract parameters, initialisation, binding.

  Args:
    make: builds the module from `nnx.Rngs`; called at most once abstractly, no array is allocated.
  """

  def __init__(self, make: Callable[[nnx.Rngs], _Module]):
    self._make = make

  @functools.cached_property
  def abstract(self) -> Params:
    """Shapes and dtypes of the parameters. Who knows them may set them, which saves building the module."""
    return nnx.to_pure_dict(self._split[1])

  @functools.cached_property
  def _split(self):
    return nnx.split(nnx.eval_shape(lambda: self._make(nnx.Rngs(0))))

  def init(self, key: jax.Array) -> Params:
    """Random parameters from `key`; pure, so it may run under `jax.jit` with out_shardings."""
    return nnx.to_pure_dict(nnx.state(self._make(nnx.Rngs(key)), nnx.Param))

  def untrained(self, seed: int) -> Params:
    """Random parameters drawn on the host, for trying and measuring without a checkpoint.

    Gains are 1, biases 0, everything else is normal with variance 1 / fan-in. Unlike `init`,
    which follows each network's own recipe for training, nothing has to be compiled for it.
    """
    def draw(index, path, leaf):
      name = param_name(path)
      if name.endswith(("scale", "gain")):
        return np.ones(leaf.shape, leaf.dtype)
      if name.endswith("bias"):
        return np.zeros(leaf.shape, leaf.dtype)
      generator = np.random.Generator(np.random.Philox(key=[seed, index]))
      stacked = name.startswith("blocks.")
      fan_in = max(1, math.prod(leaf.shape[stacked:-1]))
      values = generator.standard_normal(leaf.shape, np.float32)
      values *= np.float32(fan_in ** -0.5)
      return values.astype(leaf.dtype)

    leaves, tree = jax.tree_util.tree_flatten_with_path(int8.float_shapes(self.abstract))
    drawn = (draw(index, *named) for index, named in enumerate(leaves))
    kinds = jax.tree.leaves(self.abstract, is_leaf=int8.is_pair)
    return jax.tree_util.tree_unflatten(tree, [int8.like(*each) for each in zip(drawn, kinds, strict=True)])

  def bind(self, params: Params) -> _Module:
    """The module with `params`; names and shapes are checked (at trace time: free under jit).

    Raises:
      ValueError: names or shapes differ from `abstract`.
    """
    check_params(params, self.abstract)
    return nnx.merge(self._split[0], params)

  def num_params(self) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(self.abstract))
