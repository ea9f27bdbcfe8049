"""One training step as a pure function: gradients, clipping, optimiser, moving average."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from emv3_jax.models.network import Params
from emv3_jax.models.rope import RopeTable
from emv3_jax.sharding.mesh import degree
from emv3_jax.training.curriculum import Kind, Stage, Trained
from emv3_jax.training.objectives import ndpo, sft
from emv3_jax.training.objectives.forward import Batch, Forward
from emv3_jax.training.update import ema, trainable
from emv3_jax.training.update import optimizer as optimizer_lib
from emv3_jax.training.update.state import State

Objective = Callable[[Params, dict], tuple[jax.Array, dict]]


class StepFunction:
  """(state, batches, empty_text, rope) -> (state, metrics), to be jitted with a donated state.

  `batches` is {"batch": ..., "positives": ...}, the latter where the kind of step needs it.
  """

  def __init__(self, forward: Forward, stages: Sequence[Stage],
               optimizer: optax.GradientTransformation, kind: Kind, trained: Trained):
    self._forward, self._config, self._stages = forward, forward.config, tuple(stages)
    self._optimizer, self._kind, self._trained = optimizer, kind, trained
    self.__name__ = f"{kind}_step"  # of the program, in profiles and dumps

  def __call__(self, state: State, batches: dict[str, Batch], empty_text: jax.Array,
               rope: RopeTable) -> tuple[State, dict[str, jax.Array]]:
    batches = {name: self._forward.pinned(batch) for name, batch in batches.items()}
    trained, frozen = trainable.split(state["params"], self._trained)
    loss, metrics, gradients = 0.0, {}, None
    for objective, weight, prefix in self._objectives(state, empty_text, rope):
      on_trained = lambda trained, batches, objective=objective: objective(
          trainable.merge(trained, frozen), batches)
      value, by_example, more = self._gradients(on_trained, trained, batches)
      loss += weight * value
      metrics |= {prefix + name: array for name, array in by_example.items()}
      gradients = more if gradients is None else jax.tree.map(
          lambda a, b, weight=weight: a + weight * b, gradients, more)
    state, scalars = self._updated(state, trained, frozen, gradients)
    if self._kind == "ndpo":
      state["calibration"] = ndpo.calibrate(state["calibration"], metrics["d"],
                                            self._config.ndpo.calibration)
    return state, {"loss": loss, **scalars, **metrics}

  def _objectives(self, state: State, empty_text, rope) -> list[tuple[Objective, float, str]]:
    """Objectives of all batches, their weights, and what their metrics' names begin with."""
    forward, step = self._forward, state["step"]
    supervised = sft.objective(forward, step, empty_text, rope)
    if self._kind == "sft":
      return [(lambda params, of: supervised(params, of["batch"]), 1.0, "")]
    if self._kind == "dpo":
      return [(ndpo.paired_objective(forward, step, rope, state["reference"]), 1.0, "")]
    negative = ndpo.objective(forward, step, rope, state.get("reference"), state["calibration"])
    objectives = [(lambda params, of: negative(params, of["batch"]), 1.0, "")]
    weight = self._config.ndpo.sft_weight
    if weight:
      learn = lambda params, of: supervised(params, of["positives"])
      objectives.append((learn, weight, "positive_"))
    return objectives

  def _gradients(self, objective: Objective, trained: Params, batches: dict[str, Batch]):
    """Loss, metrics by example and gradients, one part of the batch after the other."""
    value_and_grad = jax.value_and_grad(objective, has_aux=True)
    parts = self._config.train.accumulate
    if parts == 1:
      (loss, by_example), gradients = value_and_grad(trained, batches)
      return loss, by_example, gradients

    def add(total, part):
      (loss, by_example), gradients = value_and_grad(trained, self._pinned(part))
      total = jax.tree.map(lambda sum_, x: sum_ + x / parts, total, (loss, gradients))
      return total, by_example

    zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained)
    (loss, gradients), by_example = jax.lax.scan(add, zeros, jax.tree.map(self._cut, batches))
    return loss, jax.tree.map(self._joined, by_example), gradients

  def _cut(self, x: jax.Array) -> jax.Array:
    """[b, ...] -> [parts, b / parts, ...], each part taking rows of every device."""
    rows, parts = degree(self._forward.mesh, "batch"), self._config.train.accumulate
    x = x.reshape(rows, parts, -1, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(parts, -1, *x.shape[3:])

  def _joined(self, x: jax.Array) -> jax.Array:
    """Inverse of `_cut`."""
    rows, parts = degree(self._forward.mesh, "batch"), self._config.train.accumulate
    x = x.reshape(parts, rows, -1, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(-1, *x.shape[3:])

  def _pinned(self, batches: dict[str, Batch]) -> dict[str, Batch]:
    return {name: self._forward.pinned(batch) for name, batch in batches.items()}

  def _updated(self, state: State, trained: Params, frozen: Params,
               gradients: Params) -> tuple[State, dict[str, jax.Array]]:
    """The state after one step of the optimiser, and what there is to say about it."""
    config, step = self._config, state["step"]
    with jax.named_scope("update"):
      norm = optimizer_lib.global_norm(gradients)
      gradients = optimizer_lib.clipped(gradients, config.optimizer.clip)
      rate = optimizer_lib.learning_rate(self._stages, step)
      directions, opt_state = self._optimizer.update(gradients, state["opt_state"], trained)
      trained = jax.tree.map(lambda leaf, direction: (leaf - rate * direction).astype(leaf.dtype),
                             trained, directions)
      params = trainable.merge(trained, frozen)
      decay = ema.decay_in(self._stages, step, config.ema_decay)
      average = ema.mixed(state["ema"], params, decay)
    new = {**state, "step": step + 1, "params": params, "ema": average, "opt_state": opt_state}
    return new, {"grad_norm": norm, "learning_rate": rate,
                 "update_norm": rate * optimizer_lib.global_norm(directions),
                 "ema_decay": decay}
