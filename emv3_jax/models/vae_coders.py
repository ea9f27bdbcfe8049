"""The VAE's sizes, its encoder and its decoder, one chunk of a clip at a time."""

import dataclasses

from flax import nnx
import jax
from jaxtyping import Float

from emv3_jax.limits import CHANNELS, LARGEST, check_ranges
from emv3_jax.models.causal_conv import CausalCache, CausalConv
from emv3_jax.models.execution import Constrain
from emv3_jax.models.vae_layers import (
    Downsample,
    Middle,
    RMSNorm,
    Stage,
    Upsample,
    numbered,
    run_stages,
)


@dataclasses.dataclass(frozen=True)
class VAEConfig:
  """Sizes of the VAE; the defaults are Wan 2.1's.

  Attributes:
    base_dim: channels at full resolution.
    z_dim: latent channels.
    multipliers: channels of each stage of the encoder, in base_dim; between two stages the sides
      are halved.
    num_res_blocks: residual blocks of an encoder stage; a decoder stage has one more.
    temporal_downsample: whether the frame rate is halved too, for each step between two stages.
    latent_mean, latent_std: statistics [z_dim] that normalise the latents.
  """

  base_dim: int = 96
  z_dim: int = 16
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  num_res_blocks: int = 2
  temporal_downsample: tuple[bool, ...] = (False, True, True)
  latent_mean: tuple[float, ...] = (
      -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
      0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
  latent_std: tuple[float, ...] = (
      2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
      3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)

  def __post_init__(self):
    check_ranges("vae", self, {
        "base_dim": CHANNELS, "z_dim": CHANNELS, "multipliers": CHANNELS,
        "num_res_blocks": (1, 1000), "latent_mean": (-LARGEST, LARGEST),
        "latent_std": (1 / LARGEST, LARGEST)})
    if len(self.temporal_downsample) != len(self.multipliers) - 1:
      raise ValueError(
          f"VAEConfig.temporal_downsample has {len(self.temporal_downsample)} entries, expected "
          f"one for each step between the {len(self.multipliers)} stages.")
    for name in ("latent_mean", "latent_std"):
      if len(getattr(self, name)) != self.z_dim:
        raise ValueError(f"VAEConfig.{name} has {len(getattr(self, name))} entries, expected "
                         f"z_dim = {self.z_dim}.")

  @property
  def frames_per_latent(self) -> int:
    return 2 ** sum(self.temporal_downsample)

  @property
  def pixels_per_latent(self) -> int:
    return 2 ** len(self.temporal_downsample)

  @property
  def steps_at_video_rate(self) -> int:
    """Number of the encoder's steps before the frame rate changes."""
    return (*self.temporal_downsample, True).index(True)


class Encoder(nnx.Module):
  """Video in [-1, 1] to the moments of the latents, before the last linear layer."""

  def __init__(self, config: VAEConfig, fine_frames: int, **options):
    channels = [config.base_dim * m for m in config.multipliers]
    steps = [Downsample(c, in_time, **options)
             for c, in_time in zip(channels[:-1], config.temporal_downsample, strict=True)]
    inputs = channels[:1] + channels[:-1]
    self.conv_in = CausalConv(3, channels[0], **options)
    self.stages = numbered(
        Stage(c_in, c_out, config.num_res_blocks, step, **options)
        for c_in, c_out, step in zip(inputs, channels, steps + [None], strict=True))
    self.middle = Middle(channels[-1], **options)
    self.norm_out = RMSNorm(channels[-1], precision=options["precision"])
    self.conv_out = CausalConv(channels[-1], 2 * config.z_dim, **options)
    self.num_fine, self.fine_frames = config.steps_at_video_rate, fine_frames

  def __call__(self, video: Float[jax.Array, "b F H W 3"], cache: CausalCache, constrain: Constrain
               ) -> Float[jax.Array, "b f H8 W8 moments"]:
    """Moments of 1 or n latents of 1 or 4n frames; H8 = H / 8, moments = 2 z_dim."""
    stages = list(self.stages.values())
    fine, coarse = stages[:self.num_fine], stages[self.num_fine:]

    def from_pixels(frames, cache):
      return run_stages(fine, self.conv_in(frames, cache), cache, constrain)

    x = cache.in_chunks(from_pixels, video, self.fine_frames)
    x = run_stages(coarse, x, cache, constrain)
    x = self.middle(x, cache)
    return self.conv_out(jax.nn.silu(self.norm_out(x)), cache)


class Decoder(nnx.Module):
  """Latents after the first linear layer to video; mirrors the encoder."""

  def __init__(self, config: VAEConfig, fine_frames: int, **options):
    channels = [config.base_dim * m for m in reversed(config.multipliers)]
    in_time = reversed(config.temporal_downsample)
    steps = [Upsample(c, t, **options) for c, t in zip(channels[:-1], in_time, strict=True)]
    inputs = channels[:1] + [c // 2 for c in channels[:-1]]  # an upsampling halves the channels
    self.conv_in = CausalConv(config.z_dim, channels[0], **options)
    self.middle = Middle(channels[0], **options)
    self.stages = numbered(
        Stage(c_in, c_out, config.num_res_blocks + 1, step, **options)
        for c_in, c_out, step in zip(inputs, channels, steps + [None], strict=True))
    self.norm_out = RMSNorm(channels[-1], precision=options["precision"])
    self.conv_out = CausalConv(channels[-1], 3, **options)
    self.num_coarse = len(steps) - config.steps_at_video_rate
    self.fine_frames = fine_frames

  def __call__(self, latents: Float[jax.Array, "b f H8 W8 c"], cache: CausalCache,
               constrain: Constrain) -> Float[jax.Array, "b F H W 3"]:
    """1 or 4n frames of 1 or n latents; H = 8 H8."""
    stages = list(self.stages.values())
    coarse, fine = stages[:self.num_coarse], stages[self.num_coarse:]

    def to_pixels(x, cache):
      x = run_stages(fine, x, cache, constrain)
      return self.conv_out(jax.nn.silu(self.norm_out(x)), cache)

    x = self.middle(self.conv_in(latents, cache), cache)
    x = run_stages(coarse, x, cache, constrain)
    return cache.in_chunks(to_pixels, x, self.fine_frames)
