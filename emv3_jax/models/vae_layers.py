"""Layers of the VAE: norm, residual block, attention in a frame, changes of resolution, stages."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32

from emv3_jax.attention.local import attend_blocked
from emv3_jax.models.causal_conv import CausalCache, CausalConv, SpatialConv
from emv3_jax.models.execution import Constrain
from emv3_jax.models.precision import Precision

VIDEO_AXES = ("batch", None, "height", "width", None)


def numbered(modules) -> nnx.Dict:
  """Modules under '0', '1', ...: strings, as checkpoints and dotted names give them back."""
  return nnx.Dict({str(i): module for i, module in enumerate(modules)})


class RMSNorm(nnx.Module):
  """scale * sqrt(c) * x / max(|x|_2, 1e-12) over channels, inside float32. No mean, no bias."""

  def __init__(self, channels: int, *, precision: Precision):
    self.scale = nnx.Param(jnp.ones(channels, precision.param_dtype))
    self.precision = precision

  def __call__(self, x: Float[jax.Array, "*axes c"]) -> Float32[jax.Array, "*axes c"]:
    x = x.astype(jnp.float32)
    length = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    gain = self.scale[...].astype(x.dtype) * x.shape[-1] ** 0.5
    return x / jnp.maximum(length, 1e-12) * gain


class ResidualBlock(nnx.Module):
  """x + conv(silu(norm(conv(silu(norm(x)))))), with a linear shortcut where channels change."""

  def __init__(self, channels_in: int, channels_out: int, *, precision: Precision, method: str,
               rngs: nnx.Rngs):
    options: dict[str, Any] = dict(precision=precision, method=method, rngs=rngs)
    self.norm1 = RMSNorm(channels_in, precision=precision)
    self.conv1 = CausalConv(channels_in, channels_out, **options)
    self.norm2 = RMSNorm(channels_out, precision=precision)
    self.conv2 = CausalConv(channels_out, channels_out, **options)
    self.shortcut = (linear(channels_in, channels_out, precision, rngs)
                     if channels_in != channels_out else None)

  @jax.named_scope("residual_block")
  def __call__(self, x: Float[jax.Array, "b t h w channels_in"], cache: CausalCache
               ) -> Float[jax.Array, "b t h w channels_out"]:
    y = self.conv1(jax.nn.silu(self.norm1(x)), cache)
    y = self.conv2(jax.nn.silu(self.norm2(y)), cache)
    return y + (x if self.shortcut is None else self.shortcut(x))


def linear(channels_in: int, channels_out: int, precision: Precision, rngs: nnx.Rngs):
  return nnx.Linear(channels_in, channels_out, dtype=precision.compute_dtype,
                    param_dtype=precision.param_dtype, precision=precision.matmul, rngs=rngs)


class FrameAttention(nnx.Module):
  """Residual attention with a single head over the positions of each frame."""

  def __init__(self, channels: int, *, precision: Precision, rngs: nnx.Rngs):
    self.norm = RMSNorm(channels, precision=precision)
    self.qkv = linear(channels, 3 * channels, precision, rngs)
    self.proj = linear(channels, channels, precision, rngs)

  @jax.named_scope("frame_attention")
  def __call__(self, x: Float[jax.Array, "b t h w c"]) -> Float[jax.Array, "b t h w c"]:
    batch, time, height, width, channels = x.shape
    tokens = self.qkv(self.norm(x)).reshape(batch * time, height * width, 1, 3 * channels)
    y = attend_blocked(*jnp.split(tokens, 3, axis=-1))
    return x + self.proj(y.reshape(x.shape))


class Middle(nnx.Module):
  """The blocks at the lowest resolution: residual, attention, residual."""

  def __init__(self, channels: int, *, precision: Precision, method: str, rngs: nnx.Rngs):
    options: dict[str, Any] = dict(precision=precision, method=method, rngs=rngs)
    self.block1 = ResidualBlock(channels, channels, **options)
    self.attention = FrameAttention(channels, precision=precision, rngs=rngs)
    self.block2 = ResidualBlock(channels, channels, **options)

  def __call__(self, x: Float[jax.Array, "b t h w c"], cache: CausalCache
               ) -> Float[jax.Array, "b t h w c"]:
    return self.block2(self.attention(self.block1(x, cache)), cache)


class Downsample(nnx.Module):
  """Halves the sides, and with `in_time` the frame rate; the clip's first frame stays alone."""

  def __init__(self, channels: int, in_time: bool, *, precision: Precision, method: str,
               rngs: nnx.Rngs):
    self.conv = SpatialConv(channels, channels, stride=2, padding=((0, 1), (0, 1)),
                            precision=precision, rngs=rngs)
    self.time_conv = CausalConv(
        channels, channels, (3, 1, 1), time_stride=2,
        precision=precision, method=method, rngs=rngs) if in_time else None

  @jax.named_scope("downsample")
  def __call__(self, x: Float[jax.Array, "b t h w c"], cache: CausalCache
               ) -> Float[jax.Array, "b t2 h//2 w//2 c"]:
    x = self.conv(x)
    if self.time_conv is None:
      return x
    if cache.first:  # passes by the convolution, but is seen by the next window
      cache.store(x, self.time_conv.history)
      return x
    return self.time_conv(x, cache)


class Upsample(nnx.Module):
  """Doubles the sides, and with `in_time` the frame rate; halves the channels.

  The clip's first frame is not doubled, and the frames after it see zeros in its place.
  """

  def __init__(self, channels: int, in_time: bool, *, precision: Precision, method: str,
               rngs: nnx.Rngs):
    self.time_conv = CausalConv(
        channels, 2 * channels, (3, 1, 1),
        precision=precision, method=method, rngs=rngs) if in_time else None
    self.conv = SpatialConv(channels, channels // 2, precision=precision, rngs=rngs)

  @jax.named_scope("upsample")
  def __call__(self, x: Float[jax.Array, "b t h w c"], cache: CausalCache
               ) -> Float[jax.Array, "b t2 2*h 2*w c//2"]:
    if self.time_conv is not None:
      if cache.first:
        cache.store(jnp.zeros_like(x), self.time_conv.history)
      else:
        batch, time, height, width, channels = x.shape
        pairs = self.time_conv(x, cache).reshape(batch, time, height, width, 2, channels)
        x = jnp.moveaxis(pairs, 4, 2).reshape(batch, 2 * time, height, width, channels)
    return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3))


class Stage(nnx.Module):
  """Residual blocks at one resolution, then the step to the next."""

  def __init__(self, channels_in: int, channels_out: int, num_blocks: int,
               resample: Downsample | Upsample | None, **options):
    self.blocks = numbered(
        ResidualBlock(channels_out if i else channels_in, channels_out, **options)
        for i in range(num_blocks))
    self.resample = resample

  def __call__(self, x: Float[jax.Array, "b t h w channels_in"], cache: CausalCache
               ) -> Float[jax.Array, "b t2 h2 w2 channels_out"]:
    for block in self.blocks.values():
      x = block(x, cache)
    return x if self.resample is None else self.resample(x, cache)


def run_stages(stages: Sequence[Stage], x: Float[jax.Array, "b t h w channels_in"],
               cache: CausalCache, constrain: Constrain
               ) -> Float[jax.Array, "b t2 h2 w2 channels_out"]:
  for stage in stages:
    x = constrain(stage(x, cache), *VIDEO_AXES)
  return x
