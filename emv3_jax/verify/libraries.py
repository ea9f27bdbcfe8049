"""Modules of diffusers and transformers. Their transformer has no audio expert.

Functions that build a `torch.nn.Module` return Any: to type checkers a module's attributes are tensors or
modules, and none can be called.
"""

from typing import Any

import diffusers
import numpy as np
import torch
import transformers

from emv3_jax.errors import InputError
from emv3_jax.verify.foreign import build
from emv3_jax.verify.modules import Module, layer_outputs, sinusoid

TEXT_TOKENS = 512  # diffusers separates image and text tokens by this number


class ExactTime(torch.nn.Module):
  """Time sinusoid in float64, as in the released code; diffusers' float32 angles are off by up to 6e-5 rad."""

  def __init__(self, width: int):
    super().__init__()
    self.width = width

  def forward(self, tau):
    return sinusoid(tau, self.width)


def wan_transformer(config) -> Any:
  """Builds diffusers' transformer of a `TransformerConfig`."""
  return build(
      diffusers.WanTransformer3DModel, num_attention_heads=config.num_heads,
      attention_head_dim=config.head_dim, in_channels=config.in_channels,
      out_channels=config.out_channels, text_dim=config.text_dim, freq_dim=config.freq_dim,
      ffn_dim=config.ffn_dim, num_layers=config.num_layers, image_dim=config.image_dim,
      added_kv_proj_dim=config.dim, eps=config.eps)


def wan_vae(config) -> Any:
  """Builds diffusers' VAE of a `VAEConfig`."""
  return build(
      diffusers.AutoencoderKLWan, base_dim=config.base_dim, z_dim=config.z_dim,
      dim_mult=list(config.multipliers), num_res_blocks=config.num_res_blocks,
      temperal_downsample=list(config.temporal_downsample))  # sic


def umt5(config, layers: int, vocab_size: int) -> Any:
  """Builds transformers' umT5 of a `UMT5Config`, with `layers` layers."""
  return transformers.UMT5EncoderModel(transformers.UMT5Config(
      vocab_size=vocab_size, d_model=config.dim, d_kv=config.attention_dim // config.num_heads,
      d_ff=config.ffn_dim, num_layers=layers, num_heads=config.num_heads,
      relative_attention_num_buckets=config.num_buckets,
      relative_attention_max_distance=config.max_distance, layer_norm_epsilon=config.eps,
      feed_forward_proj="gated-gelu"))


def clip_vision(config) -> Any:
  """Builds transformers' vision tower of a `CLIPVisionConfig`, as a child `vision_model`."""
  tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(
      hidden_size=config.dim, intermediate_size=config.mlp_ratio * config.dim,
      num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
      image_size=config.image_size, patch_size=config.patch_size, hidden_act="gelu",
      layer_norm_eps=config.eps))
  holder = torch.nn.Module()  # transformers 5 removed a level of names that the files still have
  holder.vision_model = getattr(tower, "vision_model", tower)
  return holder


def wav2vec2_config(config) -> transformers.Wav2Vec2Config:
  return transformers.Wav2Vec2Config(
      hidden_size=config.dim, num_hidden_layers=config.num_layers,
      num_attention_heads=config.num_heads, intermediate_size=config.ffn_dim,
      conv_dim=(config.conv_dim,) * len(config.conv_kernels), conv_kernel=config.conv_kernels,
      conv_stride=config.conv_strides, num_conv_pos_embeddings=config.position_kernel,
      num_conv_pos_embedding_groups=config.position_groups, layer_norm_eps=config.eps)


class Libraries:
  """diffusers and transformers; see `modules.Implementation`."""

  has_audio = False

  def versions(self):
    return {"against": "diffusers and transformers", "diffusers": diffusers.__version__,
            "transformers": transformers.__version__, "torch": torch.__version__}

  def transformer(self, config):
    if config.text_tokens != TEXT_TOKENS:
      raise InputError(f"diffusers' transformer wants {TEXT_TOKENS} text tokens, this one has "
                       f"{config.text_tokens}; compare it with --reference=CHECKOUT.")
    module = wan_transformer(config)
    module.condition_embedder.timesteps_proj = ExactTime(config.freq_dim)

    def velocity(latents, condition, tau, text, image, audio, face_mask):
      return module(torch.cat([latents, condition], dim=1), tau, text, image, return_dict=False)[0]

    return Module(module, "diffusers", velocity)

  def vae(self, config):
    module = wan_vae(config)
    mean, std = (torch.tensor(values)[:, None, None, None]
                 for values in (config.latent_mean, config.latent_std))

    def run(direction, x):
      if direction == "encode":
        return (module.encode(x).latent_dist.mode() - mean) / std
      return module.decode(x * std + mean).sample

    return Module(module, "diffusers", run)

  def text_layer(self, config):
    module = umt5(config, layers=1, vocab_size=2)
    module.encoder.final_layer_norm = torch.nn.Identity()
    return Module(module, "transformers", lambda x, mask: module(
        inputs_embeds=x, attention_mask=mask).last_hidden_state)

  def text_norm(self, config):
    module = umt5(config, layers=1, vocab_size=2)
    return Module(module, "transformers", module.encoder.final_layer_norm)

  def image_encoder(self, config):
    module = clip_vision(config)
    return Module(module, "transformers", lambda pixels: module.vision_model(
        pixels).last_hidden_state)

  def audio_encoder(self, config, variant):
    module = transformers.Wav2Vec2Model(wav2vec2_config(config))

    def run(waveform, frames):
      if frames is None:
        return layer_outputs(module.encoder.layers, lambda: module(waveform))
      # Flash resamples the features within the network, which the library's call cannot do.
      features = torch.nn.functional.interpolate(
          module.feature_extractor(waveform), size=frames, mode="linear", align_corners=True)
      hidden = module.feature_projection(features.transpose(1, 2))[0]
      return layer_outputs(module.encoder.layers, lambda: module.encoder(hidden))

    return Module(module, "official", run)

  def solver(self, settings):
    if settings.solver == "euler":
      return euler(settings)
    solver = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, final_sigmas_type="zero")
    solver.set_timesteps(settings.steps)
    # The timesteps of the released flash scripts, which differ from those of diffusers.
    even = np.linspace(0.999, 0, settings.steps + 1)
    sigmas = settings.shift * even / (1 + (settings.shift - 1) * even)
    solver.sigmas = torch.from_numpy(sigmas.astype(np.float32))
    solver.timesteps = torch.from_numpy((1000 * sigmas[:-1]).astype(np.int64))
    return solver


def euler(settings):
  """Returns diffusers' Euler scheduler, which the released preview scripts use as well."""
  solver = diffusers.FlowMatchEulerDiscreteScheduler(shift=settings.solver_shift)
  solver.set_timesteps(settings.steps)
  return solver
