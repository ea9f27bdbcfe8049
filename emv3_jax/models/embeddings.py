"""From latent pixels and CLIP tokens to the transformer's width."""

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from emv3_jax.geometry import CELLS
from emv3_jax.models.execution import ONE_DEVICE, ExecutionConfig
from emv3_jax.models.norms import LayerNorm
from emv3_jax.models.precision import Precision
from emv3_jax.models.token_layers import XAVIER, gelu_erf, linear

PATCH = (1, CELLS, CELLS)  # latent frames, rows and columns of a token


class ImageEmbedding(nnx.Module):
  """CLIP tokens [b, m, image_dim] -> [b, m, d]."""

  def __init__(self, image_dim: int, dim: int, precision: Precision, *, rngs: nnx.Rngs):
    self.norm_in = LayerNorm(image_dim, eps=1e-5, precision=precision)
    self.up = linear(image_dim, image_dim, precision, rngs, kernel_init=XAVIER)
    self.down = linear(image_dim, dim, precision, rngs, kernel_init=XAVIER)
    self.norm_out = LayerNorm(dim, eps=1e-5, precision=precision)

  def __call__(self, image: Float[jax.Array, "b m image_dim"]) -> Float[jax.Array, "b m d"]:
    return self.norm_out(self.down(gelu_erf(self.up(self.norm_in(image)))))


class PatchEmbedding(nnx.Module):
  """A linear map of 1 x 2 x 2 latent pixels to a token."""

  def __init__(self, in_channels: int, dim: int, precision: Precision, *, rngs: nnx.Rngs):
    init = nnx.initializers.xavier_uniform(in_axis=(0, 1, 2, 3))
    shape = (*PATCH, in_channels, dim)
    self.kernel = nnx.Param(init(rngs.params(), shape, precision.param_dtype))
    self.bias = nnx.Param(jnp.zeros(dim, precision.param_dtype))
    self.precision = precision

  def __call__(self, x: Float[jax.Array, "b f H8 W8 c"], execution: ExecutionConfig = ONE_DEVICE
               ) -> Float[jax.Array, "b s d"]:
    """Tokens in the compute dtype, space-major."""
    b, f, height, width, c = x.shape
    dtype = self.precision.compute_dtype
    x = x.astype(dtype).reshape(b, f, height // 2, 2, width // 2, 2, c)
    patches = jnp.einsum("bfhpwqc->bhwfpqc", x).reshape(b, -1, 4 * c)
    patches = execution.constrain(patches, "batch", "length", None)
    kernel = self.kernel[...].astype(dtype).reshape(4 * c, -1)
    tokens = jnp.einsum("bsi,id->bsd", patches, kernel, precision=self.precision.matmul)
    return tokens + self.bias[...].astype(dtype)
