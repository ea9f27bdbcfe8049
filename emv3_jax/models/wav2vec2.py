"""wav2vec 2.0: speech at 16 kHz becomes the audio tokens of the transformer.

Seven strided convolutions (one token each 20 ms), a convolutional position embedding and a
post-norm transformer encoder: the base model of Baevski et al. 2020, in which the first
convolution alone is followed by a group norm. The residual stream is float32 in every precision.
"""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.attention.local import attend_blocked
from emv3_jax.errors import InputError
from emv3_jax.limits import ABOVE_0, CHANNELS, check_ranges
from emv3_jax.models.encoder_layers import FeedForward, SelfAttention
from emv3_jax.models.network import Network
from emv3_jax.models.norms import LayerNorm
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.models.token_layers import linear


@dataclasses.dataclass(frozen=True)
class Wav2Vec2Config:
  """Sizes of the network; the defaults are wav2vec2-base.

  Attributes:
    conv_dim: channels of the waveform convolutions.
    conv_kernels, conv_strides: their sizes in samples of the layer before.
    position_kernel, position_groups: the positional convolution, in tokens.
  """

  dim: int = 768
  ffn_dim: int = 3072
  num_layers: int = 12
  num_heads: int = 12
  conv_dim: int = 512
  conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
  conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
  position_kernel: int = 128
  position_groups: int = 16
  eps: float = 1e-5

  def __post_init__(self):
    for name in ("conv_kernels", "conv_strides"):  # JSON gives lists, which do not hash
      object.__setattr__(self, name, tuple(getattr(self, name)))
    if len(self.conv_kernels) != len(self.conv_strides):
      raise ValueError(f"wav2vec2: {len(self.conv_kernels)} conv_kernels and "
                       f"{len(self.conv_strides)} conv_strides; one of each a convolution.")
    check_ranges("audio_encoder", self, {
        **{field.name: CHANNELS for field in dataclasses.fields(self)}, "num_layers": (1, 1000),
        "conv_kernels": (1, 4096), "conv_strides": (1, 4096), "eps": (ABOVE_0, 1)})
    for divisor in ("num_heads", "position_groups"):
      if self.dim % getattr(self, divisor):
        raise InputError(f"audio_encoder.dim is {self.dim}; it must be a multiple of {divisor}, "
                         f"{getattr(self, divisor)}.")


def num_tokens(samples: int, config: Wav2Vec2Config = Wav2Vec2Config()) -> int:
  """Tokens that the network makes of a waveform of `samples`; 0 if it is too short for one."""
  for kernel, stride in zip(config.conv_kernels, config.conv_strides, strict=True):
    samples = max(0, (samples - kernel) // stride + 1)
  return samples


def num_samples(tokens: int, config: Wav2Vec2Config = Wav2Vec2Config()) -> int:
  """Samples of the shortest waveform that makes `tokens` >= 1 tokens; base: 320 tokens + 80."""
  samples = tokens
  for kernel, stride in reversed(list(zip(config.conv_kernels, config.conv_strides, strict=True))):
    samples = (samples - 1) * stride + kernel
  return samples


class WaveformConvs(nnx.Module):
  """Strided convolutions over the samples, without padding or bias, GELU after each."""

  def __init__(self, config: Wav2Vec2Config, precision: Precision, *, rngs: nnx.Rngs):
    for index, (kernel, stride) in enumerate(zip(config.conv_kernels, config.conv_strides,
                                                 strict=True)):
      conv = nnx.Conv(1 if index == 0 else config.conv_dim, config.conv_dim, (kernel,),
                      strides=(stride,), padding="VALID", use_bias=False,
                      dtype=precision.compute_dtype, param_dtype=precision.param_dtype,
                      precision=precision.matmul, rngs=rngs)
      setattr(self, f"conv{index}", conv)
    # One group a channel: each channel is normalised over the whole clip.
    self.norm = nnx.GroupNorm(config.conv_dim, num_groups=config.conv_dim, epsilon=config.eps,
                              dtype=jnp.float32, use_fast_variance=False,
                              param_dtype=precision.param_dtype, rngs=rngs)
    self.num_convs = len(config.conv_kernels)

  def __call__(self, waveform: Float[jax.Array, "b samples"],
               statistics: tuple[jax.Array, jax.Array] | None = None) -> Float[jax.Array, "b a c"]:
    """Tokens of a waveform, or of a piece of one.

    Args:
      waveform: samples.
      statistics: mean and variance [b, c] of the first convolution over the whole sound; None takes
        those of `waveform`.
    """
    x = waveform[..., None]
    for index in range(self.num_convs):
      x = self.convolve(index, x)
      if index == 0:
        x = self.norm(x) if statistics is None else self._normalise(x, *statistics)
      x = jax.nn.gelu(x, approximate=False)
    return x

  def convolve(self, index: int, x: Float[jax.Array, "b a0 c0"]) -> Float[jax.Array, "b a c"]:
    """One convolution alone."""
    return getattr(self, f"conv{index}")(x)

  def _normalise(self, x, mean, variance):
    """The group norm with statistics from elsewhere."""
    gain, bias = self.norm.scale, self.norm.bias
    assert gain is not None and bias is not None
    scale = jax.lax.rsqrt(variance + self.norm.epsilon) * gain[...].astype(jnp.float32)
    return (x.astype(jnp.float32) - mean[:, None]) * scale[:, None] + bias[...].astype(jnp.float32)


class PositionConv(nnx.Module):
  """Grouped convolution over the tokens whose output is added as position embedding.

  Its kernel is weight-normalised: `direction` [taps, in / groups, out] is scaled to length `gain`
  [taps, 1, 1] at each tap. Both are kept, as in the checkpoints, and folded at the call.
  """

  def __init__(self, config: Wav2Vec2Config, precision: Precision, *, rngs: nnx.Rngs):
    shape = (config.position_kernel, config.dim // config.position_groups, config.dim)
    direction = 2 * (shape[0] * config.dim) ** -0.5 * jax.random.normal(rngs.params(), shape)
    self.direction = nnx.Param(direction.astype(precision.param_dtype))
    self.gain = nnx.Param(_lengths(direction).astype(precision.param_dtype))
    self.bias = nnx.Param(jnp.zeros(config.dim, precision.param_dtype))
    self.config = config
    self.precision = precision

  def __call__(self, x: Float[jax.Array, "b a0 d"], *, padded: bool = False
               ) -> Float[jax.Array, "b a d"]:
    """Position embeddings of tokens.

    Args:
      x: tokens; a = a0.
      padded: `x` has the kernel's half before and the rest after the tokens, which are not
        returned: a = a0 - position_kernel + 1.
    """
    dtype = jnp.float32
    direction = self.direction[...].astype(dtype)
    kernel = direction * (self.gain[...].astype(dtype) / _lengths(direction))
    # An even kernel padded by half on both sides would give one token too many at the end.
    half = self.config.position_kernel // 2
    padding = (0, 0) if padded else (half, self.config.position_kernel - 1 - half)
    compute = self.precision.compute_dtype
    x = jax.lax.conv_general_dilated(
        x.astype(compute), kernel.astype(compute), (1,), [padding], dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=self.config.position_groups, precision=self.precision.matmul)
    return jax.nn.gelu(x + self.bias[...].astype(compute), approximate=False)


def _lengths(direction):
  return jnp.sqrt(jnp.sum(jnp.square(direction), axis=(1, 2), keepdims=True))


class Block(nnx.Module):
  """One layer, post-norm: norm(x + attention), then norm(x + feed-forward)."""

  def __init__(self, config: Wav2Vec2Config, precision: Precision, *, rngs: nnx.Rngs):
    self.attn = SelfAttention(config.dim, config.num_heads, precision, attend=attend_blocked,
                              rngs=rngs)
    self.norm1 = LayerNorm(config.dim, eps=config.eps, precision=precision)
    self.ffn = FeedForward(config.dim, config.ffn_dim, precision, rngs=rngs)
    self.norm2 = LayerNorm(config.dim, eps=config.eps, precision=precision)

  def __call__(self, x: Float32[jax.Array, "b a d"]) -> Float32[jax.Array, "b a d"]:
    with jax.named_scope("attention"):
      attended = self.attn.attend(self.attn.queries(x), *self.attn.keys_and_values(x))
    return self.after_attention(x, attended)

  def after_attention(self, x: Float32[jax.Array, "b a d"], attended: Float[jax.Array, "b a n k"]
                      ) -> Float32[jax.Array, "b a d"]:
    """The rest of the layer, token by token."""
    with jax.named_scope("attention"):
      x = self.norm1(x + self.attn.output(attended))
    with jax.named_scope("ffn"):
      return self.norm2(x + self.ffn(x))


def resample(x: Float[AnyArray, "b a c"], frames: int) -> Float[AnyArray, "b {frames} c"]:
  """Linear interpolation along `a` to `frames` tokens, first and last kept.

  Positions are float32 as in the reference (`align_corners=True`).
  """
  tokens = x.shape[1]
  step = np.float32(tokens - 1) / np.float32(max(frames - 1, 1))
  position = step * np.arange(frames, dtype=np.float32)
  left = np.minimum(position.astype(np.int32), tokens - 1)
  right = np.minimum(left + 1, tokens - 1)
  weight = (position - left)[:, None]
  return x[:, left] * (1 - weight) + x[:, right] * weight


class Wav2Vec2(nnx.Module):
  """The whole network, encoder layers stacked on a leading axis."""

  def __init__(self, config: Wav2Vec2Config, precision: Precision = FLOAT32, *, rngs: nnx.Rngs):
    self.convs = WaveformConvs(config, precision, rngs=rngs)
    self.feature_norm = LayerNorm(config.conv_dim, eps=config.eps, precision=precision)
    self.feature_projection = linear(config.conv_dim, config.dim, precision, rngs)
    self.position_conv = PositionConv(config, precision, rngs=rngs)
    self.norm = LayerNorm(config.dim, eps=config.eps, precision=precision)
    make_block = lambda r: Block(config, precision, rngs=r)
    self.blocks = nnx.vmap(make_block)(rngs.split(config.num_layers))
    self.config = config
    self.precision = precision

  def __call__(self, waveform: AnyArray, *, frames: int | None = None,
               layers: str = "last") -> Float32[jax.Array, "b a *layers d"]:
    """Encodes clips of one length.

    Args:
      waveform: [b, samples] float32 at 16 kHz, normalised or raw as the checkpoint wants it.
      frames: resample the ~50 tokens a second to this many before the encoder (flash: the number
        of video frames); None keeps them (preview).
      layers: "last" layer's output or "all" of them; the encoder's input is not among them.

    Returns:
      [b, a, dim] float32, or with `layers="all"` [b, a, layers, dim]; a is `frames` or
      `num_tokens(samples)`.

    Raises:
      ValueError: the waveform is not [b, samples] or shorter than one token, or `layers` is
        unknown, or `frames` is not positive.
    """
    if waveform.ndim != 2 or num_tokens(waveform.shape[1], self.config) < 1:
      raise ValueError(f"wav2vec2: waveform is {waveform.shape}, wanted [batch, samples] with at "
                       f"least {num_samples(1, self.config)} samples.")
    if frames is not None and frames < 1:
      raise ValueError(f"wav2vec2: frames is {frames}, wanted at least 1 or None.")
    if layers not in ("last", "all"):
      raise ValueError(f"wav2vec2: layers is {layers!r}; known: 'last', 'all'.")
    with jax.named_scope("convs"):
      x = self.convs(jnp.asarray(waveform)).astype(jnp.float32)
    if frames is not None:
      x = resample(x, frames)
    x = self.project(x)
    with jax.named_scope("position_conv"):
      x = self.norm(x + self.position_conv(x))

    def body(x, block):
      x = block(x)
      return x, x if layers == "all" else None

    x, outputs = jax.lax.scan(body, x, self.blocks)
    return jnp.einsum("lbad->bald", outputs) if layers == "all" else x

  def project(self, features: Float[AnyArray, "b a c"]) -> Float32[jax.Array, "b a d"]:
    """The width of the encoder from that of the convolutions, token by token."""
    return self.feature_projection(self.feature_norm(jnp.asarray(features))).astype(jnp.float32)


def network(config: Wav2Vec2Config, precision: Precision = FLOAT32) -> Network[Wav2Vec2]:
  return Network(lambda rngs: Wav2Vec2(config, precision, rngs=rngs))
