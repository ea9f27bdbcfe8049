"""Layers that work on every token by itself, and running them a block of tokens at a time."""

from collections.abc import Callable
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from emv3_jax.models.execution import ONE_DEVICE, ExecutionConfig
from emv3_jax.models.precision import Precision

XAVIER = nnx.initializers.xavier_uniform()  # of Wan's linear maps


def linear(inputs: int, outputs: int, precision: Precision, rngs: nnx.Rngs, **options) -> nnx.Linear:
  return nnx.Linear(inputs, outputs, dtype=precision.compute_dtype,
                    param_dtype=precision.param_dtype, precision=precision.matmul, rngs=rngs,
                    **options)


def by_token_blocks(fn: Callable[[Any], Any], tokens: Any, blocks: int, shards: int = 1) -> Any:
  """`fn(tokens)` a block of tokens at a time, so that its temporaries are a block's.

  Args:
    fn: from a tree of [b, c, ...] to a tree of [b, c', ...], token by token.
    tokens: tree of [b, s, ...]; the lengths s may differ by a factor.
    blocks: number of blocks, done one after the other.
    shards: number of devices that the token axis is split over; blocks are cut inside each shard.

  Returns:
    The tree that `fn(tokens)` would give.
  """
  if blocks == 1:
    return fn(tokens)

  def cut(t):
    return t.reshape(t.shape[0], shards, blocks, -1, *t.shape[2:])

  def block(i):
    chunk = lambda t: jax.lax.dynamic_index_in_dim(cut(t), i, axis=2, keepdims=False)
    merged = lambda t: t.reshape(t.shape[0], -1, *t.shape[3:])
    out = fn(jax.tree.map(lambda t: merged(chunk(t)), tokens))
    return jax.tree.map(lambda t: t.reshape(t.shape[0], shards, -1, *t.shape[2:]), out)

  def write(i, out):
    # In place: stacking the blocks and moving their axis would copy the whole tensor once more.
    put = lambda whole, part: jax.lax.dynamic_update_index_in_dim(whole, part, i, axis=2)
    return jax.tree.map(put, out, block(i))

  shape = lambda t: (*t.shape[:2], blocks, *t.shape[2:])
  out = jax.tree.map(lambda t: jnp.zeros(shape(t), t.dtype), jax.eval_shape(block, 0))
  out = jax.lax.fori_loop(0, blocks, write, out)
  return jax.tree.map(lambda t: t.reshape(t.shape[0], -1, *t.shape[4:]), out)


class MLP(nnx.Module):
  """down(activation(up(x)))."""

  def __init__(self, dims: tuple[int, int, int], activation: Callable, precision: Precision, *,
               rngs: nnx.Rngs, kernel_init=XAVIER):
    self.up = linear(dims[0], dims[1], precision, rngs, kernel_init=kernel_init)
    self.down = linear(dims[1], dims[2], precision, rngs, kernel_init=kernel_init)
    self.activation = activation

  def __call__(self, x: Float[jax.Array, "*axes inputs"], execution: ExecutionConfig = ONE_DEVICE
               ) -> Float[jax.Array, "*axes outputs"]:
    """[..., inputs] -> [..., outputs]; on a mesh [b, s, inputs], the hidden axis split over mlp."""
    hidden = self.activation(self.up(x))
    return self.down(execution.constrain(hidden, "batch", "length", "mlp"))


gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)
gelu_erf = functools.partial(jax.nn.gelu, approximate=False)
