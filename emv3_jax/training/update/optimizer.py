"""Optimiser, gradient clipping and learning rates.

The optimiser gives a direction; the step multiplies it by the learning rate, which is a function of
the step alone. So one program serves all stages, and no state counts but the run's own step.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
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
      "muon": lambda: optax.contrib.muon(
          -1.0, beta=config.b1, consistent_rms=MUON_RMS, adam_b1=config.b1, adam_b2=config.b2,
          eps=config.eps, muon_weight_dimension_numbers=_orthogonalised),
  }[config.name]()
  return optax.chain(direction, optax.add_decayed_weights(config.weight_decay, _decayed))


def _orthogonalised(params: Params) -> Params:
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


def global_norm(tree: Params) -> jax.Array:
  """Square root of the sum of squares of all leaves, float32.

  Leaf by leaf and axis by axis: flattening a leaf that is split over devices would gather it.
  """
  squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
  return jnp.sqrt(sum(squares))


def clip_factor(norm: jax.Array, clip: float) -> jax.Array:
  """What gradients of global norm `norm` are multiplied by; clip 0 leaves them."""
  return jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-12)) if clip else jnp.ones_like(norm)


def learning_rate(stages: Sequence[Stage], step: jax.Array) -> jax.Array:
  """The learning rate of a step of the run, float32; after the last stage its final one."""
  step = jnp.asarray(step, jnp.int32)
  firsts = first_steps(stages)
  rates = [_rate_in(stage, (step - first).astype(jnp.float32))
           for stage, first in zip(stages, firsts, strict=False)]
  begun = [step >= first for first in firsts[:-1]]
  return jnp.select(begun[::-1], rates[::-1])


def _rate_in(stage: Stage, index: jax.Array) -> jax.Array:
  """The rate of step `index` of a stage, counted from 0."""
  warm = jnp.minimum(1.0, (index + 1) / stage.warmup) if stage.warmup else 1.0
  done = jnp.clip((index - stage.warmup) / max(1, stage.steps - stage.warmup), 0.0, 1.0)
  left = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + jnp.cos(jnp.pi * done))}
  share = left[stage.decay]
  if stage.decay != "constant":
    share = stage.final_share + (1 - stage.final_share) * share
  return jnp.asarray(stage.learning_rate * warm * share, jnp.float32)
