"""The transformer's sizes, one of its layers, and the head after the last.

A layer is one attention between two halves that work on every token by itself:

  q, k, v = project(x)                             pre: norm1, modulation, norms of q and k, RoPE
  y = attend(q, k, v)
  x = x + W_o y * gate; x + CDCA; x + FFN * gate   post
"""

from collections.abc import Sequence
import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32

from emv3_jax.arrays import AnyArray
from emv3_jax.errors import InputError
from emv3_jax.limits import ABOVE_0, CHANNELS, WIDEST, check_ranges
from emv3_jax.models.audio_projection import AUDIO_PATHS, AudioPath
from emv3_jax.models.cross_attention import Context, CrossAttention
from emv3_jax.models.embeddings import PATCH
from emv3_jax.models.execution import ExecutionConfig
from emv3_jax.models.norms import LayerNorm, RMSNorm, modulated_norm
from emv3_jax.models.precision import Precision
from emv3_jax.models.rope import RopeTable, apply_rope
from emv3_jax.models.token_layers import MLP, XAVIER, gelu_tanh, linear

QueryKeyValue = tuple[Float[jax.Array, "b s n k"], Float[jax.Array, "b s n k"],
                      Float[jax.Array, "b s n k"]]
Modulation = Sequence[Float32[jax.Array, "b 1 d"]]  # shift, scale, gate; twice


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Sizes of the network; the defaults are the released preview model.

  Attributes:
    variant: which audio path. `preview`: 17 wav2vec2 tokens a latent frame. `flash`: `audio_tokens`
      made from windows of 5 video frames x `audio_layers` of features.
    in_channels: 16 noisy latent + 4 mask + 16 masked-video latent.
    text_tokens: shorter texts are zero-padded to this length, and all of it is attended to.
    image_tokens, image_dim: CLIP tokens.
    audio_dim: width of the speech features.
    audio_layers, audio_hidden, audio_tokens: of the flash projection only.
    eps: of every norm except those of the projections, which have 1e-5.
  """

  variant: str = "preview"
  dim: int = 1536
  ffn_dim: int = 8960
  num_heads: int = 12
  num_layers: int = 30
  in_channels: int = 36
  out_channels: int = 16
  freq_dim: int = 256
  text_dim: int = 4096
  text_tokens: int = 512
  image_dim: int = 1280
  image_tokens: int = 257
  audio_dim: int = 768
  audio_layers: int = 12
  audio_hidden: int = 512
  audio_tokens: int = 32
  eps: float = 1e-6

  def __post_init__(self):
    if self.variant not in AUDIO_PATHS:
      raise InputError(f"TransformerConfig.variant is {self.variant!r}; known: "
                       f"{', '.join(AUDIO_PATHS)}.")
    check_ranges("transformer", self, {
        **{field.name: CHANNELS for field in dataclasses.fields(self)}, "num_layers": (1, 1000),
        "freq_dim": (2, WIDEST), "eps": (ABOVE_0, 1)})
    if self.dim % (2 * self.num_heads):
      raise ValueError(f"TransformerConfig.dim is {self.dim}; expected a multiple of twice the "
                       f"number of heads, {2 * self.num_heads}.")

  @property
  def audio_path(self) -> AudioPath:
    """The network's part of the variant."""
    return AUDIO_PATHS[self.variant]

  @property
  def head_dim(self) -> int:
    return self.dim // self.num_heads


class SelfAttention(nnx.Module):
  """Attention of every token to every token, with q and k normed over all heads together."""

  def __init__(self, config: TransformerConfig, precision: Precision, *, rngs: nnx.Rngs):
    make = lambda: linear(config.dim, config.dim, precision, rngs, kernel_init=XAVIER)
    self.q, self.k, self.v, self.o = make(), make(), make(), make()
    self.norm_q = RMSNorm(config.dim, eps=config.eps, precision=precision)
    self.norm_k = RMSNorm(config.dim, eps=config.eps, precision=precision)
    self.num_heads = config.num_heads

  def project(self, x: Float[jax.Array, "b s d"], rope: RopeTable) -> QueryKeyValue:
    """Rotated q and k, and v."""
    heads = lambda t: t.reshape(*t.shape[:-1], self.num_heads, -1)
    q = apply_rope(heads(self.norm_q(self.q(x))), rope)
    k = apply_rope(heads(self.norm_k(self.k(x))), rope)
    return q, k, heads(self.v(x))


class Block(nnx.Module):
  """One layer: self-attention, CDCA, feed-forward."""

  def __init__(self, config: TransformerConfig, precision: Precision, *, rngs: nnx.Rngs):
    noise = jax.random.normal(rngs.params(), (6, config.dim), precision.param_dtype)
    self.modulation = nnx.Param(noise * config.dim ** -0.5)
    self.self_attn = SelfAttention(config, precision, rngs=rngs)
    self.norm3 = LayerNorm(config.dim, eps=config.eps, precision=precision)
    self.cross_attn = CrossAttention(
        config.dim, config.num_heads, biased_audio=config.audio_path.biased, eps=config.eps,
        precision=precision, rngs=rngs)
    self.ffn = MLP((config.dim, config.ffn_dim, config.dim), gelu_tanh, precision, rngs=rngs)
    self.eps = config.eps

  def pre_attention(self, x: Float[jax.Array, "b s d"], e: Modulation, rope: RopeTable,
                    execution: ExecutionConfig) -> QueryKeyValue:
    """q, k and v of the self-attention."""
    constrain, (shift, scale, *_) = execution.constrain, e
    h = constrain(modulated_norm(x, shift, scale, self.eps), "batch", "length", None)
    q, k, v = (constrain(t, "batch", "length", "heads", None)
               for t in self.self_attn.project(h, rope))
    return q, k, v

  def post_attention(self, x: Float[jax.Array, "b s d"], y: Float[jax.Array, "b s n k"],
                     e: Modulation, context: Context, *,
                     face_mask: Float[AnyArray, "b positions *f"] | None,
                     audio_gain: float | jax.Array,
                     modality_weights: Float32[AnyArray, "b 3"] | None,
                     execution: ExecutionConfig) -> Float[jax.Array, "b s d"]:
    """The next layer's x, of this one's and its attention output y.

    With `remat` full the backward pass recomputes CDCA when it gets there, so that what CDCA holds
    does not lie beside what the feed-forward holds. The other arguments are `CrossAttention`'s.
    """
    _, _, gate_attention, shift, scale, gate_ffn = e
    stream = lambda x: execution.constrain(x, "batch", "length", None)

    def gated(x, update, gate):
      return stream((x.astype(jnp.float32) + update.astype(jnp.float32) * gate).astype(x.dtype))

    x = gated(x, self.self_attn.o(y.reshape(x.shape)), gate_attention)
    with jax.named_scope("cross_attention"):
      inject = lambda x, context, face_mask: self.cross_attn(
          self.norm3(x), context, face_mask=face_mask, audio_gain=audio_gain,
          modality_weights=modality_weights, execution=execution)
      if execution.remat == "full":
        inject = jax.checkpoint(inject)  # with barriers: XLA would merge it with the first pass
      x = stream(x + inject(x, context, face_mask))
    with jax.named_scope("ffn"):
      h = stream(modulated_norm(x, shift, scale, self.eps))
      return gated(x, self.ffn(h, execution), gate_ffn)


class Head(nnx.Module):
  """Norm, modulation by the time embedding and a linear map to latent pixels."""

  def __init__(self, config: TransformerConfig, precision: Precision, *, rngs: nnx.Rngs):
    noise = jax.random.normal(rngs.params(), (2, config.dim), precision.param_dtype)
    self.modulation = nnx.Param(noise * config.dim ** -0.5)
    self.linear = linear(config.dim, PATCH[1] * PATCH[2] * config.out_channels, precision, rngs,
                         kernel_init=nnx.initializers.zeros)
    self.eps = config.eps

  def __call__(self, x: Float[jax.Array, "b s d"], e: Float32[jax.Array, "b d"]
               ) -> Float32[jax.Array, "b s pixels"]:
    """Tokens to the p * q * c numbers of their latent pixels; e is the time embedding."""
    shift, scale = jnp.split(self.modulation[...].astype(jnp.float32) + e[:, None], 2, axis=1)
    return self.linear(modulated_norm(x, shift, scale, self.eps)).astype(jnp.float32)
