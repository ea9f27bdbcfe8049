"""What is drawn by example and step, and what stands for a lost condition."""


import chex
import jax
import numpy as np
import pytest

from emv3_jax.diffusion.flow import SigmaDensity
from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.errors import InputError
from emv3_jax.models.cross_attention import PHASED
from emv3_jax.training.objectives import draws
from emv3_jax.training.settings import DropoutConfig, LossConfig
from tests.training import tiny

SHAPE = (1, 2, 2, 16)


def _draw(config, step, examples):
  return draws.draw(config.seed, config.loss, np.int32(step), np.array(examples, np.uint32), SHAPE)


def test_draws_depend_on_step_and_example_alone():
  config = tiny.config_of(loss=LossConfig(jitter=100.0))
  whole, part = _draw(config, 3, [5, 6, 7, 8]), _draw(config, 3, [8, 6])
  for of_whole, of_part in zip(whole, part, strict=True):
    np.testing.assert_array_equal(np.asarray(of_whole)[[3, 1]], of_part)
  other = _draw(config, 4, [5, 6, 7, 8])
  assert (whole.sigma != other.sigma).all() and (whole.noise != other.noise).any()
  lost = lambda step, *examples: np.stack(draws.draw_dropped(config.seed, config.dropout, step, np.array(examples)), 1)
  np.testing.assert_array_equal(lost(3, *range(64))[[60, 9]], lost(3, 60, 9))


def test_sigma_has_the_density_of_the_config():
  density = SigmaDensity("logit_normal", mean=0.5, std=0.7, shift=3.0)
  config = tiny.config_of(loss=LossConfig(sigma=density))
  levels = np.linspace(0.05, 0.95, 10)
  got = np.quantile(_draw(config, 0, range(4000)).sigma, levels)
  want = np.quantile(density.draw(jax.random.key(0), (400000,)), levels)
  np.testing.assert_allclose(got, want, atol=0.02)


def test_noise_is_standard_normal_and_each_example_has_its_own():
  noise = np.asarray(_draw(tiny.config_of(), 0, range(500)).noise)
  assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
  assert np.abs(np.corrcoef(noise[:20].reshape(20, -1)) - np.eye(20)).max() < 0.6


def test_sigma_and_noise_are_independent():
  """Each has a key of its own, of the seed, its purpose, the step and the example."""
  config = tiny.config_of()
  drawn = _draw(config, 3, [5])
  keys = [key_for(config.seed, purpose, 3, 5) for purpose in (Purpose.TRAINING_SIGMA,
                                                              Purpose.TRAINING_NOISE)]
  np.testing.assert_array_equal(drawn.sigma[0], config.loss.sigma.draw(keys[0]))
  np.testing.assert_array_equal(drawn.noise[0], jax.random.normal(keys[1], SHAPE))


def test_phase_weights_are_those_of_sigma_and_jitter_moves_them():
  config = tiny.config_of(loss=LossConfig(allocation="phased"))
  drawn = _draw(config, 0, range(200))
  np.testing.assert_allclose(drawn.weights, PHASED.weights(1000 * drawn.sigma), atol=1e-6)
  jittered = _draw(tiny.config_of(loss=LossConfig(jitter=50.0)), 0, range(200)).weights
  difference = np.abs(np.asarray(jittered) - drawn.weights)
  assert (difference.max(axis=0)[1:] > 0.05).all()  # image and audio
  assert (difference[np.asarray(drawn.sigma) > 0.95] == 0).all()  # far from all knots
  assert _draw(tiny.config_of(loss=LossConfig(allocation="released")), 0, [1]).weights is None


def test_conditions_are_lost_as_often_as_configured():
  config = tiny.config_of(dropout=DropoutConfig(audio=0.2, audio_text=0.15, everything=0.1))
  lost = draws.draw_dropped(config.seed, config.dropout, 0, np.arange(20000))
  shares = {name: np.mean(array) for name, array in lost._asdict().items()}
  np.testing.assert_allclose(list(shares.values()), [0.25, 0.1, 0.45], atol=0.01)
  text, image, audio = map(np.asarray, lost)
  assert (image <= text).all() and (text <= audio).all()


def test_lost_conditions_are_those_that_guidance_has_none_of():
  batch = tiny.batch_of(range(3))
  lost = draws.Dropped(*map(np.array, ([0, 1, 1], [0, 0, 1], [0, 1, 1])))
  got = draws.drop_conditions(batch, draws.Dropped(*(x.astype(bool) for x in lost)), tiny.EMPTY_TEXT)
  first = lambda tree: jax.tree.map(lambda array: array[0], tree)
  chex.assert_trees_all_equal(first(got), first(batch))
  empty = np.zeros_like(batch.text[0])
  empty[:2] = tiny.EMPTY_TEXT
  for i in (1, 2):
    np.testing.assert_array_equal(got.text[i], empty)
    assert not np.any(got.audio[i])
  for name in ("image", "mask", "masked_latents"):
    np.testing.assert_array_equal(getattr(got, name)[1], getattr(batch, name)[1])
    assert not np.any(getattr(got, name)[2])
  np.testing.assert_array_equal(got.face_mask[1], batch.face_mask[1])
  assert np.all(got.face_mask[2] == 1), "without a picture the audio acts everywhere"


def test_dropout_that_adds_up_to_more_than_everything_is_refused():
  with pytest.raises(InputError, match="adds up to 1.2"):
    DropoutConfig(audio=0.9, audio_text=0.25, everything=0.05)
