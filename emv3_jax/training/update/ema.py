"""Exponential moving average of the weights (EMA): one through all stages, what is sampled and ships.

  ema <- d ema + (1 - d) params,    d = min(decay, (1 + t) / (10 + t)),    t the step, from 0

so that it follows the weights closely at first. It is float32 whatever the weights are.

Stages of tasks have the run's slow decay: the average mixes what they teach. What a stage of negative
DPO changes, and the stage after it that recovers, has to be in the average at the stage's end, for
that is what the next stage starts from and what ships. There 1 / (1 - d) is a TIME_CONSTANTS-th of the
stage and t is counted from its start: of a straight path the average then holds 1 - 1 / TIME_CONSTANTS,
of one that speeds up throughout 1 - 2 / TIME_CONSTANTS.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from emv3_jax.models.network import Params
from emv3_jax.training.curriculum import Stage, first_steps

TIME_CONSTANTS = 40  # of the average, in a stage that it has to follow
MIN_SHARE = 0.9  # of its change that the average holds at the end of a stage that it has to follow


class StageEMA(NamedTuple):
  """How a stage is averaged: the decay, and whether t is counted from the stage's start."""

  decay: float
  restarts: bool


def must_follow(stages: Sequence[Stage], index: int) -> bool:
  """Whether the average has to hold what a stage changes: ndpo, dpo, and what comes after them."""
  return any(stage.kind != "sft" for stage in stages[max(index - 1, 0):index + 1])


def stage_ema(stages: Sequence[Stage], index: int, decay: float) -> StageEMA:
  """How stage `index` of a run with `ema_decay` `decay` is averaged: as it says, else by its kind."""
  stage, follow = stages[index], must_follow(stages, index)
  if stage.ema_decay is not None:
    decay = stage.ema_decay
  elif follow:
    decay = min(decay, max(0.0, 1 - TIME_CONSTANTS / stage.steps))
  restarts = follow if stage.ema_warmup is None else stage.ema_warmup == "restart"
  return StageEMA(decay, restarts)


def warmed_up(decay: float, step: jax.Array) -> jax.Array:
  """d of step `step`, float32: `decay` after its warm-up."""
  step = jnp.asarray(step, jnp.float32)
  return jnp.minimum(decay, (1 + step) / (10 + step))


def stage_decay(stages: Sequence[Stage], step: jax.Array, decay: float) -> jax.Array:
  """d of a step of a run of these stages, float32; steps after the end are the last stage's."""
  step, firsts, decays = jnp.asarray(step, jnp.int32), first_steps(stages)[:-1], []
  for index, first in enumerate(firsts):
    rule = stage_ema(stages, index, decay)
    decays.append(warmed_up(rule.decay, step - first if rule.restarts else step))
  started = [step >= first for first in firsts]
  return jnp.select(started[::-1], decays[::-1])


def init(params: Params) -> Params:
  """The average before the first step: the weights, in arrays of its own."""
  return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), params)


def mix(ema: Params, params: Any, d: jax.Array) -> Params:
  """The average after a step of decay `d`, which made `params`.

  Raises:
    AssertionError: the trees differ in names or shapes, which would be broadcast.
  """
  chex.assert_trees_all_equal_shapes(ema, params)
  share = 1 - d
  return jax.tree.map(lambda old, new: old + share * (new.astype(jnp.float32) - old), ema, params)
