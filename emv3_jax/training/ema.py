"""The moving average of the weights that runs through all stages and is what is sampled.

  ema <- d ema + (1 - d) params,    d = min(decay, (1 + t) / (10 + t)),    t the step, from 0

so that it follows the weights closely at first. It is float32 whatever the weights are.
"""

import jax
import jax.numpy as jnp

from emv3_jax.models.network import Params


def decay_at(step: jax.Array, decay: float) -> jax.Array:
  """d of step `step`, float32."""
  step = jnp.asarray(step, jnp.float32)
  return jnp.minimum(decay, (1 + step) / (10 + step))


def start(params: Params) -> Params:
  """The average before the first step: the weights, in arrays of its own."""
  return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), params)


def track(ema: Params, params: Params, step: jax.Array, decay: float) -> Params:
  """The average after step `step` (int32 scalar), which made `params`."""
  share = 1 - decay_at(step, decay)
  return jax.tree.map(lambda old, new: old + share * (new.astype(jnp.float32) - old), ema, params)
