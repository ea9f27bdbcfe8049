"""Modules of the released code, imported from a checkout of it when they are needed."""

import subprocess

import torch

from emv3_jax.verify.foreign import RELEASED_CODE, VAE, build, load, released_transformer
from emv3_jax.verify.libraries import Libraries, euler, wav2vec2_config
from emv3_jax.verify.modules import Module, layer_outputs

TEXT = "src.wan_text_encoder", "WanT5EncoderModel"
IMAGE = "src.wan_image_encoder", "VisionTransformer"


class Checkout:
  """The released code; see `modules.Implementation`.

  Raises:
    InputError: `folder` is not a checkout, or a package that it needs is not installed.
  """

  has_audio = True

  def __init__(self, folder: str, variant: str | None):
    self._folder, self._code = folder, RELEASED_CODE.get(variant or "")
    for module, name in (VAE, TEXT, IMAGE, *(self._code.classes if self._code else ())):
      load(folder, module, name)

  def versions(self):
    found = subprocess.run(["git", "-C", self._folder, "rev-parse", "HEAD"], text=True,
                           capture_output=True, check=False)
    commit = found.stdout.strip() if found.returncode == 0 else "of unknown commit"
    return {**Libraries().versions(), "against": f"the released code {commit}"}

  def transformer(self, config):
    module = released_transformer(self._folder, config)

    def velocity(latents, condition, tau, text, image, audio, face_mask):
      frames, tokens = latents.shape[2], latents.shape[2:].numel() // 4
      context = [list(text), audio, frames, face_mask]
      if RELEASED_CODE[config.variant].takes_gain:
        context.append(1.0)  # audio_scale
      return module(x=latents, t=tau, context=context, seq_len=tokens, clip_fea=image, y=condition)

    return Module(module, "official", velocity)

  def vae(self, config):
    module = build(load(self._folder, *VAE), latent_channels=config.z_dim)
    return Module(module, "official", lambda direction, x: (
        module.encode(x).latent_dist.mode() if direction == "encode" else module.decode(x).sample))

  def _text(self, config):
    return build(load(self._folder, *TEXT), vocab=2, dim=config.dim, dim_attn=config.attention_dim,
                dim_ffn=config.ffn_dim, num_heads=config.num_heads, num_layers=1,
                num_buckets=config.num_buckets, shared_pos=False)

  def text_layer(self, config):
    module = self._text(config)
    return Module(module, "official", module.blocks[0])

  def text_norm(self, config):
    module = self._text(config)
    return Module(module, "official", module.norm)

  def image_encoder(self, config):
    holder = torch.nn.Module()
    visual = holder.visual = build(
        load(self._folder, *IMAGE), image_size=config.image_size, patch_size=config.patch_size,
        dim=config.dim, mlp_ratio=config.mlp_ratio, num_heads=config.num_heads,
        num_layers=config.num_layers + 1, pool_type="token", activation="gelu", norm_eps=config.eps)
    return Module(holder, "official", lambda pixels: visual(pixels, use_31_block=True))

  def audio_encoder(self, config, variant):
    if self._code is None or self._code.audio_encoder is None:
      return Libraries().audio_encoder(config, variant)
    module = load(self._folder, *self._code.audio_encoder)(wav2vec2_config(config))
    return Module(module, "official", lambda waveform, frames: layer_outputs(
        module.encoder.layers, lambda: module(waveform, frames, return_dict=True)))

  def solver(self, settings):
    if settings.solver == "euler":
      return euler(settings)
    assert self._code is not None and self._code.solver is not None  # only preview has none, and it uses Euler
    solver = build(load(self._folder, *self._code.solver), num_train_timesteps=1000,
                  shift=settings.solver_shift, use_dynamic_shifting=False)
    solver.set_timesteps(settings.steps, device="cpu", shift=settings.shift)
    return solver
