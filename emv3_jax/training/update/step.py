"""One training step: gradients of the objectives, clipping, optimiser, moving average.

`make_train_step` gives it as a pure function of state and batches, to be compiled by
`training.update.programs`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from emv3_jax.arrays import AnyArray
from emv3_jax.models.network import Params
from emv3_jax.models.rope import RopeTable
from emv3_jax.sharding.mesh import degree
from emv3_jax.training.curriculum import Kind, Stage, Trained
from emv3_jax.training.objectives import losses
from emv3_jax.training.objectives.forward import Forward
from emv3_jax.training.objectives.losses import Batches, ByExample, Objective
from emv3_jax.training.settings import Config, ObjectiveConfig
from emv3_jax.training.update import ema
from emv3_jax.training.update import optimizer as optimizer_lib
from emv3_jax.training.update.state import State, merge_params, split_params

TrainStep = Callable[[State, Batches, jax.Array, RopeTable], tuple[State, dict[str, jax.Array]]]


def make_train_step(config: Config, forward: Forward, optimizer: optax.GradientTransformation,
                    kind: Kind, trained: Trained) -> TrainStep:
  """The step of one kind: (state, batches, empty_text, rope) -> (state, metrics).

  Args:
    config: its objective, optimizer.clip, train.accumulate, ema_decay and stages.
    forward: the network as the run applies it.
    optimizer: gives the direction that is taken off the weights.
    kind: sft, ndpo or dpo.
    trained: which parameters get gradients.
  """
  objective_config, stages = config.objective, config.all_stages()
  parts, rows = config.train.accumulate, degree(forward.mesh, "batch")
  constrain = lambda batches: {name: forward.constrain(batch) for name, batch in batches.items()}

  def train_step(state: State, batches: Batches, empty_text: AnyArray, rope: RopeTable):
    batches = constrain(batches)
    params, frozen = split_params(state["params"], trained)
    loss, metrics = 0.0, {}
    gradients: Any = None
    for objective, weight, prefix in objectives_of(kind, objective_config, forward, state,
                                                   empty_text, rope):
      of_trained = lambda params, batches, objective=objective: objective(
          merge_params(params, frozen), batches)
      value, by_example, more = accumulated_gradients(of_trained, params, batches, parts, rows,
                                                      constrain)
      loss += weight * value
      metrics |= {prefix + name: array for name, array in by_example.items()}
      gradients = more if gradients is None else jax.tree.map(
          lambda a, b, weight=weight: a + weight * b, gradients, more)
    state, scalars = apply_gradients(state, params, frozen, gradients, optimizer, stages,
                                     clip=config.optimizer.clip, ema_decay=config.ema_decay)
    if kind == "ndpo":
      state["calibration"] = losses.update_calibration(
          state["calibration"], metrics["d"], objective_config.ndpo.calibration)
    return state, {"loss": loss, **scalars, **metrics}

  train_step.__name__ = f"{kind}_step"  # of the program, in profiles and dumps
  return train_step


def objectives_of(kind: Kind, config: ObjectiveConfig, forward: Forward, state: State,
                  empty_text: AnyArray, rope: RopeTable) -> list[tuple[Objective, float, str]]:
  """The objectives of a kind of step, their weights, and the prefixes of their metrics' names."""
  step, weight = state["step"], config.ndpo.sft_weight
  if kind == "sft":
    return [(losses.sft_objective(forward, config, step, empty_text, rope), 1.0, "")]
  if kind == "dpo":
    return [(losses.dpo_objective(forward, config, step, rope, state["reference"]), 1.0, "")]
  objectives = [(losses.ndpo_objective(forward, config, step, rope, state.get("reference"),
                                       state["calibration"]), 1.0, "")]
  if weight:
    supervised = losses.sft_objective(forward, config, step, empty_text, rope, "positives")
    objectives.append((supervised, weight, "positive_"))
  return objectives


def accumulated_gradients(objective: Objective, params: Params, batches: Batches, parts: int,
                          rows: int, constrain: Callable[[Batches], Batches]
                          ) -> tuple[jax.Array, ByExample, Params]:
  """Loss, metrics by example and gradients, one part of the batch after the other.

  Args:
    objective: of the trained parameters and the batches.
    params: trained parameters.
    batches: of b rows each.
    parts: number of parts.
    rows: number of devices that the rows are split over.
    constrain: splits the rows of a part over them.
  """
  value_and_grad = jax.value_and_grad(objective, has_aux=True)
  if parts == 1:
    (loss, by_example), gradients = value_and_grad(params, batches)
    return loss, by_example, gradients

  def add(total, part):
    (loss, by_example), gradients = value_and_grad(params, constrain(part))
    total = jax.tree.map(lambda sum_, x: sum_ + x / parts, total, (loss, gradients))
    return total, by_example

  zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
  split = jax.tree.map(lambda x: split_rows(x, parts, rows), batches)
  (loss, gradients), by_example = jax.lax.scan(add, zeros, split)
  return loss, jax.tree.map(lambda x: join_rows(x, parts, rows), by_example), gradients


def split_rows(x: jax.Array, parts: int, rows: int) -> jax.Array:
  """[b, ...] -> [parts, b / parts, ...], each part taking rows of every device."""
  x = x.reshape(rows, parts, -1, *x.shape[1:]).swapaxes(0, 1)
  return x.reshape(parts, -1, *x.shape[3:])


def join_rows(x: jax.Array, parts: int, rows: int) -> jax.Array:
  """Inverse of `split_rows`."""
  x = x.reshape(parts, rows, -1, *x.shape[2:]).swapaxes(0, 1)
  return x.reshape(-1, *x.shape[3:])


def apply_gradients(state: State, params: Params, frozen: Params, gradients: Any,
                    optimizer: optax.GradientTransformation, stages: Sequence[Stage], *,
                    clip: float, ema_decay: float) -> tuple[State, dict[str, jax.Array]]:
  """The state after one step of the optimiser, and its metrics.

  Args:
    state: before the step.
    params, frozen: its trained and its other parameters.
    gradients: of `params`.
    optimizer: gives the direction, times the learning rate, that is taken off the weights.
    stages: give learning rates and how weights are averaged.
    clip: global norm that gradients are scaled down to; 0 leaves them.
    ema_decay: of the run.

  Raises:
    AssertionError: the gradients are not of these parameters, by names, shapes and dtypes.
  """
  chex.assert_trees_all_equal_shapes_and_dtypes(gradients, params)
  step = state["step"]
  with jax.named_scope("update"):
    norm = optimizer_lib.global_norm(gradients)
    gradients = optimizer_lib.clipped(gradients, clip)
    rate = optimizer_lib.learning_rate(stages, step)
    directions, opt_state = optimizer.update(gradients, state["opt_state"], params)
    params = jax.tree.map(lambda leaf, direction: (leaf - rate * direction).astype(leaf.dtype),
                          params, directions)
    params = merge_params(params, frozen)
    decay = ema.stage_decay(stages, step, ema_decay)
    average = ema.mix(state["ema"], params, decay)
  new = {**state, "step": step + 1, "params": params, "ema": average, "opt_state": opt_state}
  return new, {"grad_norm": norm, "learning_rate": rate,
               "update_norm": rate * optimizer_lib.global_norm(directions),
               "ema_decay": decay}
