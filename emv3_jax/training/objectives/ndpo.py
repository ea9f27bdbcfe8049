"""Negative DPO and paired Diffusion-DPO: away from clips that the model made and should not have.

A stage treats one issue. Its negatives are sampled from the average of the weights as it is when the
stage starts, and that same tree, frozen, is the reference. Both models see the same sigma and noise.
"""

from collections.abc import Callable
import re

import jax
import jax.numpy as jnp

from emv3_jax.models.network import Params, param_name
from emv3_jax.models.precision import Precision
from emv3_jax.models.rope import RopeTable
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.objectives import losses
from emv3_jax.training.objectives.draws import draw
from emv3_jax.training.objectives.forward import Batch, Forward
from emv3_jax.training.settings import Reading

# What the network reads in float32 whatever it computes in; everything else it casts.
_FLOAT32 = re.compile(r"time_(embedding|projection)\..*|.*\bmodulation|.*\bnorm\w*\.(scale|bias)")


def has_reference(stage: Stage, reading: Reading) -> bool:
  """Whether a stage measures against the frozen model; `absolute` does not."""
  return stage.kind == "dpo" or stage.kind == "ndpo" and reading == "reference"


def reference_of(params: Params, precision: Precision) -> Params:
  """The frozen model: `params` in the dtypes that the network computes with.

  So it predicts the same numbers as `params` do, at half the memory in mixed precision.
  """
  def leaf(path, value):
    keep = _FLOAT32.fullmatch(param_name(path))
    return value.astype(precision.param_dtype if keep else precision.compute_dtype)

  return jax.tree_util.tree_map_with_path(leaf, params)


def start_calibration() -> dict[str, jax.Array]:
  """Sum and number of the mean errors that `absolute` has seen in the stage."""
  return {"total": jnp.zeros((), jnp.float32), "count": jnp.zeros((), jnp.int32)}


def calibrate(calibration: dict, d: jax.Array, steps: int) -> dict[str, jax.Array]:
  """Adds the errors d [b] of a step, in the first `steps` of a stage."""
  more = calibration["count"] < steps
  return {"total": calibration["total"] + jnp.where(more, jnp.mean(d), 0.0),
          "count": calibration["count"] + more.astype(jnp.int32)}


def measured_beta(calibration: dict, d: jax.Array) -> jax.Array:
  """1 / mean(d) so far, [b]; the first step, which has no mean yet, takes each example's own d."""
  count = calibration["count"].astype(jnp.float32)
  mean = calibration["total"] / jnp.maximum(count, 1)
  return jax.lax.stop_gradient(1 / jnp.where(count > 0, mean, d))


def objective(forward: Forward, step: jax.Array, rope: RopeTable, reference: Params | None,
              calibration: dict) -> Callable[[Params, Batch], tuple[jax.Array, dict]]:
  """The negative DPO loss of a batch of negatives with the conditions that they were made on.

  Args:
    forward, step, rope: of the run and the step.
    reference: the frozen model; the reading `absolute` has none.
    calibration: what `absolute` has measured so far.

  Returns:
    A function of parameters and batch that gives the mean loss, and by example, each [b]: `d`,
    `d_ref` (0 in the reading `absolute`), `sigma`, `task`.
  """
  config = forward.config

  def loss(params: Params, batch: Batch):
    draws = draw(config, step, batch["example"], batch["latents"].shape[1:])
    d = forward.errors(params, batch, draws, rope)
    if config.ndpo.reading == "reference":
      d_ref, beta = forward.errors(reference, batch, draws, rope), config.ndpo.beta
    else:
      d_ref, beta = jnp.zeros_like(d), measured_beta(calibration, d)
    terms = losses.negative_dpo(d, d_ref, beta)
    return jnp.mean(terms), {"d": d, "d_ref": d_ref, "sigma": draws.sigma, "task": batch["task"]}

  return loss


def paired_objective(forward: Forward, step: jax.Array, rope: RopeTable,
                     reference: Params) -> Callable[[Params, dict], tuple[jax.Array, dict]]:
  """Diffusion-DPO on {"batch": negatives, "positives"} whose rows are pairs of one condition.

  Returns:
    A function of parameters and pair that gives the mean loss, and by example `d`, `d_ref`,
    `d_positive`, `d_positive_ref`, `sigma`, `task`.
  """
  config = forward.config

  def loss(params: Params, pair: dict[str, Batch]):
    negative, positive = pair["batch"], pair["positives"]
    draws = draw(config, step, negative["example"], negative["latents"].shape[1:])
    errors = lambda params, batch: forward.errors(params, batch, draws, rope)
    of_reference = errors(reference, positive), errors(reference, negative)
    d_positive, d = errors(params, positive), errors(params, negative)
    terms = losses.paired_dpo(d_positive, of_reference[0], d, of_reference[1], config.ndpo.beta)
    return jnp.mean(terms), {
        "d": d, "d_ref": of_reference[1], "d_positive": d_positive,
        "d_positive_ref": of_reference[0], "sigma": draws.sigma, "task": negative["task"]}

  return loss
