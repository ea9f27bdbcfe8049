"""Clips padded to a bucket are those of their exact length, and lengths of a bucket share all programs."""

import dataclasses
import functools

import numpy as np
import pytest
import soundfile

from emv3_jax.errors import InputError
from emv3_jax.models.precision import FLOAT32
from emv3_jax.runtime import start_up
from emv3_jax.sampling import length_buckets
from emv3_jax.sampling.clip import sample
from emv3_jax.sampling.denoise import make_denoiser
from emv3_jax.sampling.model import load
from emv3_jax.sampling.settings import Config, Request, SamplingConfig
from emv3_jax.sharding import MeshConfig, replicate, shard_params
from tests.sampling.conftest import tiny_config
from tests.sharding import tiny

SIZE = 5  # latent frames of the bucket; the clips of `tiny` have 3
SETTINGS = SamplingConfig(steps=2, solver="euler", text_scale=3.0, audio_scale=2.0, neg_scale=1.0, neg_steps=-1,
                          attention="blocked", length_buckets=SIZE, riflex_k=2)


def settings_of(net, **changes):
  return dataclasses.replace(SETTINGS, **changes).with_defaults(net.variant)


@functools.cache
def denoised(net, buckets, mesh=None, **changes):
  """Latents of one clip."""
  settings = settings_of(net, length_buckets=buckets, **changes)
  config = mesh or MeshConfig()
  denoiser = make_denoiser(net, settings, tiny.mesh_of(config), precision=FLOAT32, attention=config.attention)
  conditions = length_buckets.padded(tiny.conditions_of(1, net, moves=net.variant == "preview"), settings, net)
  noise = np.random.default_rng(5).normal(size=(1, SIZE, 8, 12, 16)).astype(np.float32)
  noise = noise[:, :conditions.condition.shape[1]]
  params = shard_params(tiny.params_of(net), denoiser.transformer.mesh)
  placed = dataclasses.replace(conditions, **replicate(
      {"condition": conditions.condition, "face_mask": conditions.face_mask}, denoiser.transformer.mesh))
  return np.asarray(denoiser.run(params, noise, placed))


def close(got, want):
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("net", [tiny.CONFIG, tiny.FLASH], ids=["preview", "flash"])
def test_latents_of_a_padded_clip_are_those_of_its_length(net):
  padded, want = denoised(net, SIZE), denoised(net, 0)
  assert padded.shape[1] == SIZE and want.shape[1] == 3
  close(padded[:, :3], want)


@pytest.mark.parametrize("mesh", [MeshConfig(context=2, tensor=2), MeshConfig(context=4, attention="allgather")],
                         ids=tiny.name_of)
def test_on_a_mesh_they_are_the_same(mesh):
  close(denoised(tiny.CONFIG, SIZE, mesh)[:, :3], denoised(tiny.CONFIG, 0)[:, :3])


@pytest.mark.parametrize("frames, size", [(1, 4), (4, 4), (5, 8), (8, 8), (9, 10), (10, 10), (11, 11)])
def test_lengths_are_rounded_up_within_a_window(frames, size):
  settings = settings_of(tiny.CONFIG, length_buckets=4, max_frames=37)
  assert length_buckets.padded_latents(settings, frames) == size
  assert length_buckets.padded_latents(settings_of(tiny.CONFIG, length_buckets=0), frames) == frames


@pytest.mark.parametrize("platform, attention", [("tpu", "splash"), ("gpu", "cudnn"), ("gpu", "auto")])
def test_backends_that_attend_to_every_key_are_refused(platform, attention):
  settings = settings_of(tiny.CONFIG, attention=attention)
  with pytest.raises(InputError, match=r"backend (splash|cudnn) attends to every key.*set sampling.attention to blocked or xla"):
    make_denoiser(tiny.CONFIG, settings, tiny.mesh_of(MeshConfig()), precision=FLOAT32, platform=platform)


def test_clips_of_a_bucket_compile_once_and_are_those_of_their_length(files, tmp_path):
  config = tiny_config("sampling.attention=blocked", "sampling.height=32", "sampling.width=32", "sampling.text_scale=2.0",
                       "model.vae.base_dim=4", "model.transformer.num_layers=1", "sampling.steps=1")
  padding = load(config=with_buckets(config, 3))
  exact = load(config=config)

  def clip(model, samples):
    soundfile.write(tmp_path / "voice.wav", 0.3 * np.sin(np.arange(samples) / 10), 16000)
    return sample(model, Request(audio=tmp_path / "voice.wav", image=files["image"], prompt="a puppet", face_box="8,40,8,40"))

  first = clip(padding, 5 * 640)
  compiled = start_up.watch().programs()
  got = clip(padding, 9 * 640)
  assert start_up.watch().programs() == compiled
  want = clip(exact, 5 * 640)
  assert first.latents.shape == want.latents.shape == (2, 4, 4, 16) and got.latents.shape == (3, 4, 4, 16)
  close(first.latents, want.latents)
  assert np.abs(first.frames.astype(int) - want.frames).max() <= 1
  assert first.report["fingerprint"] != want.report["fingerprint"]


def with_buckets(config: Config, buckets: int) -> Config:
  return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, length_buckets=buckets))
