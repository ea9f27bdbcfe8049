"""Layers that the two plain transformer encoders, CLIP and wav2vec 2.0, share."""

import functools

from flax import nnx
import jax
from jaxtyping import Float

from emv3_jax.attention.local import Attend
from emv3_jax.models.precision import Precision
from emv3_jax.models.token_layers import linear


class SelfAttention(nnx.Module):
  """Multi-head attention of all tokens of an example to each other."""

  def __init__(self, dim: int, num_heads: int, precision: Precision, *, attend: Attend,
               rngs: nnx.Rngs):
    project = functools.partial(linear, dim, dim, precision, rngs)
    self.q, self.k, self.v, self.o = project(), project(), project(), project()
    self.num_heads = num_heads
    self.attend = attend
    self.dtype = precision.compute_dtype

  def __call__(self, x: Float[jax.Array, "b m d"]) -> Float[jax.Array, "b m d"]:
    """[b, m, d] -> [b, m, d] in `precision.compute`."""
    return self.output(self.attend(self.queries(x), *self.keys_and_values(x)))

  def queries(self, x: Float[jax.Array, "b m d"]) -> Float[jax.Array, "b m n k"]:
    """Queries of all heads."""
    return self._heads(self.q(x))

  def keys_and_values(self, x: Float[jax.Array, "b m d"]
                      ) -> tuple[Float[jax.Array, "b m n k"], Float[jax.Array, "b m n k"]]:
    """Keys and values of all heads."""
    return self._heads(self.k(x)), self._heads(self.v(x))

  def _heads(self, x: Float[jax.Array, "b m d"]) -> Float[jax.Array, "b m n k"]:
    return x.reshape(*x.shape[:2], self.num_heads, -1)

  def output(self, attended: Float[jax.Array, "b m n k"]) -> Float[jax.Array, "b m d"]:
    """The projection after attention."""
    return self.o(attended.reshape(*attended.shape[:2], -1))


class FeedForward(nnx.Module):
  """down(gelu(up(x))) with the exact GELU."""

  def __init__(self, dim: int, hidden: int, precision: Precision, *, rngs: nnx.Rngs):
    self.up = linear(dim, hidden, precision, rngs)
    self.down = linear(hidden, dim, precision, rngs)

  def __call__(self, x: Float[jax.Array, "b m d"]) -> Float[jax.Array, "b m d"]:
    """[b, m, d] -> [b, m, d] in `precision.compute`."""
    return self.down(jax.nn.gelu(self.up(x), approximate=False))
