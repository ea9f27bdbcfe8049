"""CLIP's vision tower: the reference image becomes the image tokens of the transformer.

A pre-norm ViT (Dosovitskiy et al. 2021) of CLIP ViT-H/14. The transformer is conditioned on the
output of the last but one block, so only the first 31 of 32 blocks exist here; there is no final
norm and no projection. The residual stream is float32 in every precision.
"""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Float32

from emv3_jax.attention.local import attend_xla
from emv3_jax.errors import InputError
from emv3_jax.limits import ABOVE_0, CHANNELS, check_ranges
from emv3_jax.models.encoder_layers import FeedForward, SelfAttention
from emv3_jax.models.network import Network
from emv3_jax.models.norms import LayerNorm
from emv3_jax.models.precision import FLOAT32, Precision


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
  """Sizes of the tower; the defaults are ViT-H/14 without its last block."""

  dim: int = 1280
  num_layers: int = 31
  num_heads: int = 16
  mlp_ratio: int = 4
  image_size: int = 224
  patch_size: int = 14
  eps: float = 1e-5

  def __post_init__(self):
    check_ranges("image_encoder", self, {
        **{field.name: CHANNELS for field in dataclasses.fields(self)}, "num_layers": (1, 1000),
        "image_size": (1, 2 ** 14), "patch_size": (1, 2 ** 14), "eps": (ABOVE_0, 1)})
    if self.dim % self.num_heads:
      raise InputError(f"image_encoder.dim is {self.dim}; it must be a multiple of num_heads, "
                       f"{self.num_heads}.")
    if self.patch_size > self.image_size:
      raise InputError(f"image_encoder.patch_size is {self.patch_size}; it must be at most "
                       f"image_size, {self.image_size}.")

  @property
  def num_tokens(self) -> int:
    """Image tokens: one class token, then the patches in reading order."""
    return 1 + (self.image_size // self.patch_size) ** 2


class Block(nnx.Module):
  """One layer, pre-norm: x + attention, then x + feed-forward."""

  def __init__(self, config: CLIPVisionConfig, precision: Precision, *, rngs: nnx.Rngs):
    self.norm1 = LayerNorm(config.dim, eps=config.eps, precision=precision)
    self.attn = SelfAttention(config.dim, config.num_heads, precision, attend=attend_xla,
                              rngs=rngs)
    self.norm2 = LayerNorm(config.dim, eps=config.eps, precision=precision)
    self.ffn = FeedForward(config.dim, config.mlp_ratio * config.dim, precision, rngs=rngs)

  def __call__(self, x: Float32[jax.Array, "b m d"]) -> Float32[jax.Array, "b m d"]:
    with jax.named_scope("attention"):
      x = x + self.attn(self.norm1(x))
    with jax.named_scope("ffn"):
      return x + self.ffn(self.norm2(x))


class CLIPVision(nnx.Module):
  """The whole tower, blocks stacked on a leading axis."""

  def __init__(self, config: CLIPVisionConfig, precision: Precision = FLOAT32, *, rngs: nnx.Rngs):
    normal = lambda *shape: nnx.Param(
        config.dim ** -0.5 * jax.random.normal(rngs.params(), shape, precision.param_dtype))
    patch = (config.patch_size, config.patch_size)
    self.patch_embedding = nnx.Conv(
        3, config.dim, patch, strides=patch, padding="VALID", use_bias=False,
        dtype=precision.compute_dtype, param_dtype=precision.param_dtype,
        precision=precision.matmul, rngs=rngs)
    self.cls_embedding = normal(config.dim)
    self.position_embedding = normal(config.num_tokens, config.dim)
    self.pre_norm = LayerNorm(config.dim, eps=config.eps, precision=precision)
    make_block = lambda r: Block(config, precision, rngs=r)
    self.blocks = nnx.vmap(make_block)(rngs.split(config.num_layers))
    self.config = config
    self.precision = precision

  def __call__(self, pixels: jax.Array) -> Float32[jax.Array, "b m d"]:
    """Encodes images.

    Args:
      pixels: [b, image_size, image_size, 3] float32, normalised with CLIP's mean and deviation.

    Returns:
      Class token and patch tokens after the last block, m = num_tokens.

    Raises:
      ValueError: `pixels` has another shape.
    """
    side = self.config.image_size
    if pixels.ndim != 4 or pixels.shape[1:] != (side, side, 3):
      raise ValueError(f"CLIP: pixels are {pixels.shape}, wanted [batch, {side}, {side}, 3].")
    dtype = jnp.float32
    patches = self.patch_embedding(pixels).reshape(len(pixels), -1, self.config.dim)
    cls = jnp.broadcast_to(self.cls_embedding[...], (len(pixels), 1, self.config.dim))
    x = jnp.concatenate([cls.astype(dtype), patches.astype(dtype)], axis=1)
    x = self.pre_norm(x + self.position_embedding[...].astype(dtype))
    x, _ = jax.lax.scan(lambda x, block: (block(x), None), x, self.blocks)
    return x


def network(config: CLIPVisionConfig, precision: Precision = FLOAT32) -> Network[CLIPVision]:
  return Network(lambda rngs: CLIPVision(config, precision, rngs=rngs))
