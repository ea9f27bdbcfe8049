"""Transformer and VAE live against diffusers' own modules of tiny sizes with random weights."""

import diffusers
import jax
import numpy as np
import pytest
import torch

from emv3_jax.models import transformer, vae
from emv3_jax.models.network import named_leaves, nested
from emv3_jax.models.rope import rope_table, time_sinusoid
from tests import golden_data
from tests.parity.pretrained import converted, randomized, to_numpy

pytestmark = pytest.mark.parity


def _first(x):
  return np.moveaxis(x, -1, 1)


def test_transformer_without_audio(tmp_path, rng):
  theirs = randomized(diffusers.WanTransformer3DModel(
      num_attention_heads=3, attention_head_dim=32, in_channels=36, out_channels=16, text_dim=64,
      freq_dim=64, ffn_dim=192, num_layers=2, image_dim=48, added_kv_proj_dim=96))
  config, base = converted(theirs, tmp_path, "transformer")
  net = transformer.network(config)
  with_audio = jax.jit(net.init)(jax.random.key(0))
  params = nested(named_leaves(with_audio) | named_leaves(base))

  latents, condition = (rng.standard_normal((1, 3, 8, 12, c), np.float32) for c in (16, 20))
  text = rng.standard_normal((1, 512, 64), np.float32)
  image = rng.standard_normal((1, 257, 48), np.float32)
  audio = np.zeros((1, 18, config.audio_dim), np.float32)

  @jax.jit
  def velocity(params, sinusoid):
    model = net.bind(params)
    context = model.project(text, image, audio)
    return model(latents, condition, sinusoid, context,
                 rope=rope_table((3, 4, 6), config.head_dim), audio_gain=0.0)

  x, text_, image_ = (torch.tensor(t) for t in (
      _first(np.concatenate([latents, condition], -1)), text, image))
  for tau in (1000, 637, 12):
    with torch.no_grad():
      want = to_numpy(theirs(x, torch.tensor([tau]), text_, image_, return_dict=False)[0])
    got = _first(velocity(params, time_sinusoid(np.array([float(tau)]), config.freq_dim)))
    golden_data.check("transformer, live", got, want, 1e-5)


def test_vae(tmp_path, rng):
  theirs = randomized(diffusers.AutoencoderKLWan(base_dim=16))
  config, params = converted(theirs, tmp_path, "vae")
  net = vae.network(config)
  mean, std = np.array(config.latent_mean), np.array(config.latent_std)
  video = rng.uniform(-1, 1, (1, 9, 32, 40, 3)).astype(np.float32)
  latents = rng.standard_normal((1, 3, 4, 5, 16), np.float32)
  with torch.no_grad():
    moments = to_numpy(theirs.encode(torch.tensor(_first(video))).latent_dist.mode())
    want = theirs.decode(torch.tensor(_first(latents * std + mean).astype(np.float32))).sample
  got = jax.jit(lambda video: net.bind(params).encode(video))(video)
  golden_data.check("VAE encode, live", got * std + mean, np.moveaxis(moments, 1, -1), 1e-5)
  got = jax.jit(lambda latents: net.bind(params).decode(latents))(latents)
  assert np.mean(np.abs(got) < 1) > 0.5  # diffusers clamps: most values must tell something
  golden_data.check("VAE decode, live", _first(np.clip(got, -1, 1)), to_numpy(want), 1e-5)
