"""Layers of the face networks: residual blocks of a depthwise and a pointwise convolution.

Padding follows TensorFlow's rule "same": with stride 2 and an even size the extra row and column are at
the end.
"""

from collections.abc import Mapping

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Float32

Params = Mapping[str, jax.Array]
Images = Float32[jax.Array, "b h w c"]
Outputs = Float32[jax.Array, "b h2 w2 c2"]


def conv(x: Images, params: Params, stride: int = 1, padding: str = "SAME") -> Outputs:
  """Convolves with `kernel` [rows, columns, c, c2] and adds `bias` [c2]."""
  return lax.conv_general_dilated(
      x, params["kernel"], (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=lax.Precision.HIGHEST) + params["bias"]


def activate(x: Images, params: Params) -> Images:
  """Returns x where it is positive, and `slope` [c] times x elsewhere; without a slope 0 (ReLU)."""
  return jnp.where(x >= 0, x, params["slope"] * x) if "slope" in params else jax.nn.relu(x)


def separable(x: Images, params: Params, stride: int = 1) -> Outputs:
  """Convolves each channel with its own 3x3, then mixes the channels.

  The two run as one convolution with the product of their kernels: on CPUs XLA runs that four times as fast
  as a grouped convolution, and compiles it in a third of the time that nine shifted products take.

  Args:
    x: pictures.
    params: `depthwise` [3, 3, c], `depthwise_bias` [c], `kernel` [c, c2], `bias` [c2].
    stride: 1 or 2.
  """
  bias = jnp.dot(params["depthwise_bias"], params["kernel"], precision=lax.Precision.HIGHEST) + params["bias"]
  return conv(x, {"kernel": params["depthwise"][..., None] * params["kernel"], "bias": bias}, stride)


def residual(x: Images, params: Params) -> Images:
  """Adds a separable convolution to its input."""
  return activate(x + separable(x, params), params)


def residuals(x: Images, params: Params) -> Images:
  """Applies residual blocks of one width in turn; parameters are stacked along a leading axis."""
  return lax.scan(lambda x, block: (residual(x, block), None), x, dict(params))[0]


def down(x: Images, params: Params) -> Outputs:
  """Halves rows and columns: a residual block whose skip takes the largest of 2x2 pixels.

  New channels get no skip.
  """
  y = separable(x, params, stride=2)
  pooled = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
  skip = jnp.pad(pooled, ((0, 0), (0, 0), (0, 0), (0, y.shape[-1] - x.shape[-1])))
  return activate(y + skip, params)
