"""Supervised fine-tuning: flow matching on the data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from emv3_jax.models.network import Params
from emv3_jax.models.rope import RopeTable
from emv3_jax.training.objectives import losses
from emv3_jax.training.objectives.draws import draw, draw_dropped, drop
from emv3_jax.training.objectives.forward import Batch, Forward


def objective(forward: Forward, step: jax.Array, empty_text: jax.Array,
              rope: RopeTable) -> Callable[[Params, Batch], tuple[jax.Array, dict]]:
  """The loss of a batch, and what metrics are made of.

  Returns:
    A function of parameters and batch that gives the mean of the weighted errors, and by example,
    each [b]: `error` (weighted), `sigma`, `task`.
  """
  config = forward.config

  def loss(params: Params, batch: Batch):
    examples = batch["example"]
    draws = draw(config, step, examples, batch["latents"].shape[1:])
    conditions = drop(batch, draw_dropped(config, step, examples), empty_text)
    weights = losses.cell_weights(config.loss, batch)
    error = forward.errors(params, conditions, draws, rope, weights)
    return jnp.mean(error), {"error": error, "sigma": draws.sigma, "task": batch["task"]}

  return loss
