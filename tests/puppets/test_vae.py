"""The VAE's training on puppets: its start, its loss, the latents' statistics, its batches."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.models.vae import VAEConfig, network
from emv3_jax.puppets.training import footage, vae
from emv3_jax.puppets.training.settings import Phase, VAESettings

NETWORK = network(VAEConfig(
    base_dim=4, z_dim=4, multipliers=(1, 2), num_res_blocks=1, temporal_downsample=(True,),
    latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4), conv="taps")
SETTINGS = VAESettings(clips=3, seed=5)
WINDOW = Phase(frames=3, batch=4, steps=1)

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def clips():
  return footage.render(SETTINGS.seed, SETTINGS.clips, "train", frames=5)


@functools.cache
def params():
  return vae.init_params(NETWORK, seed=0)


@jit
def rebuild(params, video):
  bound = NETWORK.bind(params)
  latents = bound.encode(video)
  return latents, bound.decode(latents)


def test_start_codes_a_clip_like_its_pictures():
  picture = clips().frames[:1, :1]
  _, alone = rebuild(params(), picture)
  _, still = rebuild(params(), np.repeat(picture, 3, axis=1))
  np.testing.assert_allclose(still, np.repeat(alone, 3, axis=1), atol=1e-5)
  assert np.std(alone) > 0.01  # not a blank


def test_normalised_latents_decode_to_the_same():
  video = clips().frames[:1, :3]
  latents, before = rebuild(params(), video)
  latents = np.asarray(latents) + 3  # as if the statistics were of a wider set
  changed = vae.normalised(NETWORK, params(), 0.1, latents)
  after_latents, after = rebuild(changed, video)
  mean, std = latents.mean((0, 1, 2, 3)), latents.std((0, 1, 2, 3))
  np.testing.assert_allclose(after_latents, (latents - 3 - mean) / std, atol=1e-4)
  np.testing.assert_allclose(after, before, atol=1e-4)
  np.testing.assert_allclose(changed["to_moments"]["bias"][4:], 2 * np.log(0.1 / std), rtol=1e-5)


def test_loss_counts_pixels_by_weight():
  loss = jit(vae.make_loss(NETWORK, SETTINGS))
  video = clips().frames[:1, :1]
  values = {}
  for name, rows in {"all": slice(0, 64), "upper": slice(0, 32), "lower": slice(32, 64)}.items():
    weight = np.zeros((1, 1, 64, 64), np.float32)
    weight[:, :, rows] = 3
    value, metrics = loss(params(), {"video": video, "weight": weight}, jnp.int32(0))
    values[name] = float(value)
  penalty = SETTINGS.kl * float(metrics["latent_square"]) / 2
  assert values["upper"] != pytest.approx(values["lower"], rel=1e-3)
  assert values["all"] - penalty == pytest.approx(
      (values["upper"] + values["lower"]) / 2 - penalty, rel=1e-4)


def test_gradients_are_finite_and_reach_every_kernel():
  batch = footage.batch(clips(), SETTINGS, WINDOW, 0)
  loss = lambda params: vae.make_loss(NETWORK, SETTINGS)(params, batch, jnp.int32(0))[0]
  gradients = jit(jax.grad(loss))(params())
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all()
    assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_batches_depend_on_seed_and_step_alone():
  first, again = (footage.batch(clips(), SETTINGS, WINDOW, 3) for _ in range(2))
  chex.assert_trees_all_equal(first, again)
  assert first["video"].shape == (4, 3, 64, 64, 3) and first["video"].dtype == np.uint8
  other = footage.batch(clips(), SETTINGS, WINDOW, 4)
  assert not np.array_equal(first["video"], other["video"])
  ordinary, mouth = 1, 1 + SETTINGS.mouth_weight
  assert {ordinary, mouth} <= set(np.unique(first["weight"]))


def test_drawn_puppets_are_kept(tmp_path):
  drawn = footage.rendered(tmp_path, 5, 2, "held_out", frames=3)
  (file,) = tmp_path.glob("*.npz")
  changed = file.stat().st_mtime_ns
  kept = footage.rendered(tmp_path, 5, 2, "held_out", frames=3)
  assert file.stat().st_mtime_ns == changed
  np.testing.assert_array_equal(drawn.frames, kept.frames)
  hand = np.stack([kept.hand(clip) for clip in range(2)])
  assert hand.any(axis=(1, 2)).all() and not hand.all()
