"""Names of the Wan 2.1 video VAE: `Wan2.1_VAE.pth` and diffusers' AutoencoderKLWan."""

from collections.abc import Mapping
import functools

from emv3_jax.models import vae
from emv3_jax.models.vae import VAEConfig

from .component import Component, Layout
from .table import (
  CONV,
  GAMMA_2D,
  GAMMA_3D,
  POINTWISE_2D,
  POINTWISE_3D,
  Match,
  columns,
)


def _block(ours: str, official: str, diffusers: str):
  """Rows of a residual block, which has a shortcut only if the number of channels changes."""
  return (
    (f"{ours}.norm1", GAMMA_3D, f"{official}.residual.0", f"{diffusers}.norm1"),
    (f"{ours}.conv1", CONV, f"{official}.residual.2", f"{diffusers}.conv1"),
    (f"{ours}.norm2", GAMMA_3D, f"{official}.residual.3", f"{diffusers}.norm2"),
    (f"{ours}.conv2", CONV, f"{official}.residual.6", f"{diffusers}.conv2"),
    (f"{ours}.shortcut", POINTWISE_3D, f"{official}.shortcut", f"{diffusers}.conv_shortcut"),
  )


def _resample(ours: str, official: str, diffusers: str):
  """Rows of a resampling layer between two stages; it has a temporal convolution only if the frame rate changes."""
  return (
    (f"{ours}.conv", CONV, f"{official}.resample.1", f"{diffusers}.resample.1"),
    (f"{ours}.time_conv", CONV, f"{official}.time_conv", f"{diffusers}.time_conv"),
  )


def _middle(side: str):
  attention, diffusers = f"{side}.middle.attention", f"{side}.mid_block.attentions.0"
  return (
    *_block(f"{side}.middle.block1", f"{side}.middle.0", f"{side}.mid_block.resnets.0"),
    (f"{attention}.norm", GAMMA_2D, f"{side}.middle.1.norm", f"{diffusers}.norm"),
    (f"{attention}.qkv", POINTWISE_2D, f"{side}.middle.1.to_qkv", f"{diffusers}.to_qkv"),
    (f"{attention}.proj", POINTWISE_2D, f"{side}.middle.1.proj", f"{diffusers}.proj"),
    *_block(f"{side}.middle.block2", f"{side}.middle.2", f"{side}.mid_block.resnets.1"),
  )


# ours, kind, official, diffusers
TABLE = (
  ("encoder.conv_in", CONV, "encoder.conv1", "encoder.conv_in"),
  *_block("encoder.stages.0.blocks.0", "encoder.downsamples.0", "encoder.down_blocks.0"),
  *_block("encoder.stages.0.blocks.1", "encoder.downsamples.1", "encoder.down_blocks.1"),
  *_resample("encoder.stages.0.resample", "encoder.downsamples.2", "encoder.down_blocks.2"),
  *_block("encoder.stages.1.blocks.0", "encoder.downsamples.3", "encoder.down_blocks.3"),
  *_block("encoder.stages.1.blocks.1", "encoder.downsamples.4", "encoder.down_blocks.4"),
  *_resample("encoder.stages.1.resample", "encoder.downsamples.5", "encoder.down_blocks.5"),
  *_block("encoder.stages.2.blocks.0", "encoder.downsamples.6", "encoder.down_blocks.6"),
  *_block("encoder.stages.2.blocks.1", "encoder.downsamples.7", "encoder.down_blocks.7"),
  *_resample("encoder.stages.2.resample", "encoder.downsamples.8", "encoder.down_blocks.8"),
  *_block("encoder.stages.3.blocks.0", "encoder.downsamples.9", "encoder.down_blocks.9"),
  *_block("encoder.stages.3.blocks.1", "encoder.downsamples.10", "encoder.down_blocks.10"),
  *_middle("encoder"),
  ("encoder.norm_out", GAMMA_3D, "encoder.head.0", "encoder.norm_out"),
  ("encoder.conv_out", CONV, "encoder.head.2", "encoder.conv_out"),
  ("to_moments", POINTWISE_3D, "conv1", "quant_conv"),

  ("from_latents", POINTWISE_3D, "conv2", "post_quant_conv"),
  ("decoder.conv_in", CONV, "decoder.conv1", "decoder.conv_in"),
  *_middle("decoder"),
  *_block("decoder.stages.0.blocks.0", "decoder.upsamples.0", "decoder.up_blocks.0.resnets.0"),
  *_block("decoder.stages.0.blocks.1", "decoder.upsamples.1", "decoder.up_blocks.0.resnets.1"),
  *_block("decoder.stages.0.blocks.2", "decoder.upsamples.2", "decoder.up_blocks.0.resnets.2"),
  *_resample("decoder.stages.0.resample", "decoder.upsamples.3",
             "decoder.up_blocks.0.upsamplers.0"),
  *_block("decoder.stages.1.blocks.0", "decoder.upsamples.4", "decoder.up_blocks.1.resnets.0"),
  *_block("decoder.stages.1.blocks.1", "decoder.upsamples.5", "decoder.up_blocks.1.resnets.1"),
  *_block("decoder.stages.1.blocks.2", "decoder.upsamples.6", "decoder.up_blocks.1.resnets.2"),
  *_resample("decoder.stages.1.resample", "decoder.upsamples.7",
             "decoder.up_blocks.1.upsamplers.0"),
  *_block("decoder.stages.2.blocks.0", "decoder.upsamples.8", "decoder.up_blocks.2.resnets.0"),
  *_block("decoder.stages.2.blocks.1", "decoder.upsamples.9", "decoder.up_blocks.2.resnets.1"),
  *_block("decoder.stages.2.blocks.2", "decoder.upsamples.10", "decoder.up_blocks.2.resnets.2"),
  *_resample("decoder.stages.2.resample", "decoder.upsamples.11",
             "decoder.up_blocks.2.upsamplers.0"),
  *_block("decoder.stages.3.blocks.0", "decoder.upsamples.12", "decoder.up_blocks.3.resnets.0"),
  *_block("decoder.stages.3.blocks.1", "decoder.upsamples.13", "decoder.up_blocks.3.resnets.1"),
  *_block("decoder.stages.3.blocks.2", "decoder.upsamples.14", "decoder.up_blocks.3.resnets.2"),
  ("decoder.norm_out", GAMMA_3D, "decoder.head.0", "decoder.norm_out"),
  ("decoder.conv_out", CONV, "decoder.head.2", "decoder.conv_out"),
)

_OFFICIAL, _DIFFUSERS = columns(TABLE)
LAYOUTS = (Layout("official", _OFFICIAL), Layout("diffusers", _DIFFUSERS))


def _sizes(match: Match, beside: Mapping) -> dict:
  """Infers sizes; the statistics of the latents are Wan's unless config.json has them."""
  base = match.size("encoder.conv_in.bias", -1)
  stages = [match.size(f"encoder.stages.{stage}.blocks.1.conv2.bias", -1) for stage in range(4)]
  steps = [f"encoder.stages.{stage}.resample.time_conv.bias" for stage in range(3)]
  return dict(
      base_dim=base,
      z_dim=match.size("from_latents.bias", -1),
      multipliers=tuple(width // base for width in stages if width) if base and all(stages) else None,
      temporal_downsample=tuple(step in match.shapes for step in steps)
      if any(step in match.shapes for step in steps) else None,
      latent_mean=tuple(beside["latents_mean"]) if "latents_mean" in beside else None,
      latent_std=tuple(beside["latents_std"]) if "latents_std" in beside else None)


COMPONENT = Component("vae", LAYOUTS, VAEConfig, _sizes,
                      functools.cache(lambda config, variant: vae.network(config).abstract))
