"""Optimiser, gradient clipping and learning rates.

The optimiser gives a direction; the step multiplies it by the learning rate, which is a function of
the step alone. So one program serves all stages, and no state counts but the run's own step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float32
import optax

from emv3_jax.models.network import Params
from emv3_jax.training.curriculum import Stage, first_steps
from emv3_jax.training.settings import OptimizerConfig

MUON_RMS = 0.2  # of an orthogonalised step: about Adam's, so that learning rates mean the same


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
  """From gradients to the direction that is taken off the weights, times the learning rate."""
  direction = {
      "adamw": lambda: optax.scale_by_adam(config.b1, config.b2, config.eps),
      "lion": lambda: optax.scale_by_lion(config.b1, config.b2),
      "sgd": lambda: optax.trace(config.b1),
      "muon": lambda: muon(-1.0, _orthogonalised, beta=config.b1, adam_b1=config.b1,
                           adam_b2=config.b2, eps=config.eps),
  }[config.name]()
  return optax.chain(direction, optax.add_decayed_weights(config.weight_decay, _decayed))


def muon(learning_rate: optax.ScalarOrSchedule, dimension_numbers: Callable[[Any], Any],
         **options) -> optax.GradientTransformation:
  """Muon, whose orthogonalised steps are as long as Adam's.

  Args:
    learning_rate: of all leaves; -1 gives the direction that is taken off the weights.
    dimension_numbers: how leaves are seen as matrices; those without are left to Adam.
    **options: of `optax.contrib.muon`.
  """
  return optax.contrib.muon(learning_rate, consistent_rms=MUON_RMS,
                            muon_weight_dimension_numbers=dimension_numbers, **options)


def _orthogonalised(params: Any) -> Any:
  """How Muon sees the kernels of the stacked layers: as matrices, one a layer. The rest is Adam's.

  Decided by path alone, for optax also asks it about trees whose leaves are no arrays.
  """
  return jax.tree_util.tree_map_with_path(
      lambda path, _: optax.contrib.MuonDimensionNumbers(1, 2)
      if (path[0].key, path[-1].key) == ("blocks", "kernel") else None, params)


def _decayed(params: Params) -> Params:
  """Kernels have weight decay; of stacked layers the leading axis does not count."""
  return jax.tree_util.tree_map_with_path(
      lambda path, _: path[-1].key == "kernel", params)


def global_norm(tree: Any) -> Float32[jax.Array, ""]:
  """Square root of the sum of squares of all leaves.

  optax sums leaf by leaf and axis by axis: flattening a leaf that is split over devices would
  gather it.
  """
  return optax.tree.norm(optax.tree.cast(tree, jnp.float32))


def clipped(gradients: Any, norm: float) -> Any:
  """Gradients scaled to the global norm `norm` where theirs is above; 0 leaves them."""
  if not norm:
    return gradients
  scaled, _ = optax.clip_by_global_norm(norm).update(gradients, optax.EmptyState())
  return scaled


def learning_rate(stages: Sequence[Stage], step: jax.Array) -> jax.Array:
  """The learning rate of a step of the run, float32; after the last stage its final one."""
  schedule = optax.join_schedules([_schedule(stage) for stage in stages], first_steps(stages)[1:-1])
  return jnp.asarray(schedule(jnp.asarray(step, jnp.int32)), jnp.float32)


def _schedule(stage: Stage) -> optax.Schedule:
  """The rate of a stage's steps, counted from 0: the first is not 0, the last of the warm-up whole."""
  rate, steps = stage.learning_rate, max(1, stage.steps - stage.warmup)
  decay = {
      "constant": lambda: optax.constant_schedule(rate),
      "linear": lambda: optax.linear_schedule(rate, rate * stage.final_share, steps),
      "cosine": lambda: optax.cosine_decay_schedule(rate, steps, stage.final_share),
  }[stage.decay]()
  if not stage.warmup:
    return decay
  warmup = (optax.linear_schedule(rate / stage.warmup, rate, stage.warmup - 1)
            if stage.warmup > 1 else optax.constant_schedule(rate))
  return optax.join_schedules([warmup, decay], [stage.warmup])
