"""Random draws of each example in each step: sigma, noise, phase weights, dropped conditions.

Every draw is a function of the seed, the step and the example's number alone. The batch that the
example is in, the parts that the batch is split into and the devices do not matter.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from emv3_jax.arrays import AnyArray
from emv3_jax.diffusion import flow
from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.models.cross_attention import ALLOCATIONS, RELEASED
from emv3_jax.training.batch import Batch
from emv3_jax.training.settings import DropoutConfig, LossConfig


class Draws(NamedTuple):
  """Draws of a batch.

  Attributes:
    sigma: [b] float32.
    noise: [b, f, H8, W8, 16] float32.
    weights: [b, 3] float32, PhDA's W(c, tau) of text, image and audio; None where all are 1.
  """

  sigma: jax.Array
  noise: jax.Array
  weights: jax.Array | None


class Dropped(NamedTuple):
  """Which conditions are dropped from an example; bool [b]."""

  text: jax.Array
  image: jax.Array
  audio: jax.Array


def _by_example(seed: int, purpose: Purpose, step: jax.Array, draw: Callable,
                examples: AnyArray, *others: jax.Array) -> jax.Array:
  one = lambda example, *rest: draw(key_for(seed, purpose, step, example), *rest)
  return jax.vmap(one)(examples, *others)


def draw(seed: int, config: LossConfig, step: jax.Array, examples: AnyArray,
         shape: tuple[int, ...], sigma: jax.Array | None = None) -> Draws:
  """Sigma, noise and phase weights of a batch.

  Args:
    seed: of the run.
    config: sigma's density and PhDA.
    step: int32 scalar.
    examples: uint32 [b] record numbers.
    shape: (f, H8, W8, 16) of the latents.
    sigma: float32 [b] to use in place of drawn ones.
  """
  if sigma is None:
    sigma = _by_example(seed, Purpose.TRAINING_SIGMA, step, config.sigma.draw, examples)
  noise = _by_example(seed, Purpose.TRAINING_NOISE, step,
                      lambda key: jax.random.normal(key, shape, jnp.float32), examples)
  jitter = lambda key, tau: phase_weights(config, key, tau)
  weights = None
  if ALLOCATIONS[config.allocation] != RELEASED:
    weights = _by_example(seed, Purpose.PHASE_JITTER, step, jitter, examples, flow.tau(sigma))
  return Draws(sigma, noise, weights)


def phase_weights(config: LossConfig, key: jax.Array, tau: jax.Array) -> jax.Array:
  """W(c, tau) [3] of one example at `tau` [], its knots jittered by `key`."""
  allocation = ALLOCATIONS[config.allocation]
  knots = allocation.jittered(key, config.jitter, 1) if config.jitter else allocation.knots()
  return knots.weights(tau[None])[0]


def draw_dropped(seed: int, config: DropoutConfig, step: jax.Array,
                 examples: AnyArray) -> Dropped:
  """Which conditions are dropped from the examples [b] in this step."""
  return dropped_at(config, _by_example(
      seed, Purpose.CONDITION_DROPOUT, step, lambda key: jax.random.uniform(key), examples))


def dropped_at(config: DropoutConfig, uniform: jax.Array) -> Dropped:
  """Which conditions are dropped at uniform numbers [b] in [0, 1)."""
  everything = uniform < config.everything
  text = uniform < config.everything + config.audio_text
  return Dropped(text, everything, uniform < sum((config.everything, config.audio_text,
                                                  config.audio)))


def drop_conditions(batch: Batch, dropped: Dropped, empty_text: AnyArray) -> Batch:
  """The batch with dropped conditions replaced as in the unconditional branches of guidance.

  Args:
    batch: of b examples.
    dropped: by example.
    empty_text: [m', text_dim], m' <= m: umT5 states of the empty string.
  """
  def where(dropped, x, other):
    return jnp.where(dropped.reshape(-1, *(1,) * (x.ndim - 1)), jnp.asarray(other, x.dtype), x)

  padding = batch.text.shape[1] - empty_text.shape[0]
  empty_text = jnp.pad(empty_text, ((0, padding), (0, 0)))
  return dataclasses.replace(
      batch, text=where(dropped.text, batch.text, empty_text),
      audio=where(dropped.audio, batch.audio, 0),
      face_mask=where(dropped.image, batch.face_mask, 1),
      **{name: where(dropped.image, getattr(batch, name), 0)
         for name in ("image", "mask", "masked_latents")})
