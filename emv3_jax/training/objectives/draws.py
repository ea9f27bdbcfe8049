"""What is drawn for each example in each step: sigma, noise, weights of modalities, lost conditions.

Every draw is a function of the seed, the step and the example's number alone. The batch that the
example is in, the parts that the batch is split into and the devices do not matter.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from emv3_jax.diffusion import flow
from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.models.cross_attention import ALLOCATIONS, RELEASED
from emv3_jax.training.settings import Config, DropoutConfig, LossConfig


class Draws(NamedTuple):
  """
  Attributes:
    sigma: [b] float32.
    noise: [b, f, H8, W8, 16] float32.
    weights: [b, 3] float32, PhDA's W(c, tau); None where all are 1.
  """

  sigma: jax.Array
  noise: jax.Array
  weights: jax.Array | None


class Dropped(NamedTuple):
  """Which conditions an example goes without; bool [b]."""

  text: jax.Array
  image: jax.Array
  audio: jax.Array


def _by_example(config: Config, purpose: Purpose, step: jax.Array, draw: Callable,
                examples: jax.Array, *others: jax.Array) -> jax.Array:
  one = lambda example, *rest: draw(key_for(config.seed, purpose, step, example), *rest)
  return jax.vmap(one)(examples, *others)


def draw(config: Config, step: jax.Array, examples: jax.Array, shape: tuple[int, ...],
         sigma: jax.Array | None = None) -> Draws:
  """
  Args:
    config: seed, sigma's density and PhDA.
    step: int32 scalar.
    examples: uint32 [b] record numbers.
    shape: (f, H8, W8, 16) of the latents.
    sigma: float32 [b] that is not to be drawn.
  """
  if sigma is None:
    sigma = _by_example(config, Purpose.TRAINING_SIGMA, step, config.loss.sigma.draw, examples)
  noise = _by_example(config, Purpose.TRAINING_NOISE, step,
                      lambda key: jax.random.normal(key, shape, jnp.float32), examples)
  jitter = lambda key, tau: phase_weights(config.loss, key, tau)
  weights = None
  if ALLOCATIONS[config.loss.allocation] != RELEASED:
    weights = _by_example(config, Purpose.PHASE_JITTER, step, jitter, examples, flow.tau(sigma))
  return Draws(sigma, noise, weights)


def phase_weights(loss: LossConfig, key: jax.Array, tau: jax.Array) -> jax.Array:
  """W(c, tau) [3] of one example at `tau` [], its knots jittered by `key`."""
  allocation = ALLOCATIONS[loss.allocation]
  knots = allocation.jittered(key, loss.jitter, 1) if loss.jitter else allocation.knots()
  return knots.weights(tau[None])[0]


def draw_dropped(config: Config, step: jax.Array, examples: jax.Array) -> Dropped:
  """Which conditions the examples [b] lose in this step."""
  return dropped_at(config.dropout, _by_example(
      config, Purpose.CONDITION_DROPOUT, step, lambda key: jax.random.uniform(key), examples))


def dropped_at(dropout: DropoutConfig, uniform: jax.Array) -> Dropped:
  """What uniform numbers [b] in [0, 1) stand for."""
  everything = uniform < dropout.everything
  text = uniform < dropout.everything + dropout.audio_text
  return Dropped(text, everything, uniform < sum((dropout.everything, dropout.audio_text,
                                                  dropout.audio)))


def drop(batch: dict[str, jax.Array], dropped: Dropped, empty_text: jax.Array) -> dict:
  """The batch with conditions replaced by what the branches of guidance have in their place.

  Args:
    batch: with text [b, m, text_dim], image, audio, mask, masked_latents and face_mask, see
      `training.objectives.forward`.
    dropped: per example.
    empty_text: [m', text_dim], m' <= m: umT5 states of the empty string.
  """
  def where(lost, x, other):
    return jnp.where(lost.reshape(-1, *(1,) * (x.ndim - 1)), jnp.asarray(other, x.dtype), x)

  padding = batch["text"].shape[1] - empty_text.shape[0]
  empty_text = jnp.pad(empty_text, ((0, padding), (0, 0)))
  return {
      **batch, "text": where(dropped.text, batch["text"], empty_text),
      "audio": where(dropped.audio, batch["audio"], 0),
      **{name: where(dropped.image, batch[name], 0)
         for name in ("image", "mask", "masked_latents")},
      "face_mask": where(dropped.image, batch["face_mask"], 1)}
