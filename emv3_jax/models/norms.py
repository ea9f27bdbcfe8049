"""Layer norm and RMS norm over the last axis, float32 inside whatever the activations are."""

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32

from emv3_jax.models.precision import Precision


def standardize(x: Float[jax.Array, "*axes d"], eps: float) -> Float32[jax.Array, "*axes d"]:
  """(x - mean) / sqrt(var + eps) over the last axis, in float32."""
  x = x.astype(jnp.float32)
  x = x - x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)


def modulated_norm(x: Float[jax.Array, "b s d"], shift: Float32[jax.Array, "b 1 d"],
                   scale: Float32[jax.Array, "b 1 d"], eps: float) -> Float[jax.Array, "b s d"]:
  """Layer norm without parameters, then `* (1 + scale) + shift`, all in float32.

  Args:
    x: [b, s, d].
    shift, scale: [b, 1, d] float32.
    eps: added to the variance.

  Returns:
    [b, s, d] in the dtype of `x`.
  """
  return (standardize(x, eps) * (1 + scale) + shift).astype(x.dtype)


class LayerNorm(nnx.Module):
  """Layer norm with gain and bias; the affine part is in float32 too."""

  def __init__(self, dim: int, *, eps: float, precision: Precision):
    self.scale = nnx.Param(jnp.ones(dim, precision.param_dtype))
    self.bias = nnx.Param(jnp.zeros(dim, precision.param_dtype))
    self.eps = eps

  def __call__(self, x: Float[jax.Array, "*axes d"]) -> Float[jax.Array, "*axes d"]:
    """x: [..., dim]; returns the dtype of `x`."""
    scale, bias = (p[...].astype(jnp.float32) for p in (self.scale, self.bias))
    return (standardize(x, self.eps) * scale + bias).astype(x.dtype)


class RMSNorm(nnx.Module):
  """x / sqrt(mean(x^2) + eps) * scale.

  The normalised value is rounded to the dtype of `x` before the gain is applied, as the released
  weights were run in bfloat16.
  """

  def __init__(self, dim: int, *, eps: float, precision: Precision):
    self.scale = nnx.Param(jnp.ones(dim, precision.param_dtype))
    self.eps = eps

  def __call__(self, x: Float[jax.Array, "*axes d"]) -> Float[jax.Array, "*axes d"]:
    """x: [..., dim]; returns the dtype of `x`."""
    x32 = x.astype(jnp.float32)
    y = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + self.eps)
    return y.astype(x.dtype) * self.scale[...].astype(x.dtype)
