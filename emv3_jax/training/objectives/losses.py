"""Losses and objectives, in float32: flow matching, negative DPO (eq. 3), paired Diffusion-DPO.

An objective is a function of parameters and batches that gives the mean loss of the batch and, for
metrics, arrays [b] by example.

Flow matching (supervised fine-tuning, SFT) is the mean squared error of the velocity. Negative DPO
moves the model away from clips that it made and should not have made; a stage treats one issue.
Eq. 3 prints log-likelihoods, which are to be maximised; the loss is the negative of the second line,

  L = E log(1 + pi(y- | p-)).

A flow has no cheap likelihood. With d the mean squared error of the velocity on the negative clip,
two readings of pi are here:

  reference  pi = exp(-beta (d - d_ref)): likelihood beside that of the frozen model the negatives
             came from. log 2 where both are the same, and bounded: a negative that is already
             unlikely by much is left alone. Both models see the same sigma and noise.
  absolute   pi = exp(-beta d), beta = 1 / mean(d): as printed, without a reference.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from emv3_jax import geometry
from emv3_jax.arrays import AnyArray
from emv3_jax.models.network import Params
from emv3_jax.models.rope import RopeTable
from emv3_jax.training.batch import Batch
from emv3_jax.training.objectives.draws import draw, draw_dropped, drop_conditions
from emv3_jax.training.objectives.forward import Forward
from emv3_jax.training.settings import LossConfig, ObjectiveConfig

ByExample = dict[str, jax.Array]
Batches = dict[str, Batch]  # "batch", and "positives" where an objective takes both
Objective = Callable[[Params, Batches], tuple[jax.Array, ByExample]]


def sft_objective(forward: Forward, config: ObjectiveConfig, step: jax.Array,
                  empty_text: AnyArray, rope: RopeTable, which: str = "batch") -> Objective:
  """Flow matching on a batch of the data.

  Args:
    forward: the network as the run applies it.
    config: seed, sigma's density, weights of regions, dropout.
    step: int32 scalar.
    empty_text: [m, text_dim] umT5 states of the empty string.
    rope: of the latents' size.
    which: name of the batch to take.

  Returns:
    An objective whose loss is the mean of the weighted errors, and which gives `error` (weighted),
    `sigma` and `task` by example.
  """
  def objective(params: Params, batches: Batches):
    batch = batches[which]
    draws = draw(config.seed, config.loss, step, batch.example, batch.latents.shape[1:])
    dropped = draw_dropped(config.seed, config.dropout, step, batch.example)
    weights = cell_weights(config.loss, batch)
    conditioned = drop_conditions(batch, dropped, empty_text)
    error = forward.errors(params, conditioned, draws, rope, weights)
    return jnp.mean(error), {"error": error, "sigma": draws.sigma, "task": batch.task}

  return objective


def ndpo_objective(forward: Forward, config: ObjectiveConfig, step: jax.Array, rope: RopeTable,
                   reference: Params | None, calibration: dict[str, jax.Array]) -> Objective:
  """Negative DPO on a batch of negatives, with the conditions that they were made under.

  Args:
    forward, config, step, rope: as of `sft_objective`.
    reference: the frozen model; None for the reading `absolute`.
    calibration: what `absolute` has measured so far, see `update_calibration`.

  Returns:
    An objective that gives `d`, `d_ref` (0 in the reading `absolute`), `sigma` and `task`.
  """
  def objective(params: Params, batches: Batches):
    batch = batches["batch"]
    draws = draw(config.seed, config.loss, step, batch.example, batch.latents.shape[1:])
    d = forward.errors(params, batch, draws, rope)
    if config.ndpo.reading == "reference":
      assert reference is not None  # the reading needs one
      d_ref, beta = forward.errors(reference, batch, draws, rope), config.ndpo.beta
    else:
      d_ref, beta = jnp.zeros_like(d), measured_beta(calibration, d)
    terms = negative_dpo(d, d_ref, beta)
    return jnp.mean(terms), {"d": d, "d_ref": d_ref, "sigma": draws.sigma, "task": batch.task}

  return objective


def dpo_objective(forward: Forward, config: ObjectiveConfig, step: jax.Array, rope: RopeTable,
                  reference: Params) -> Objective:
  """Diffusion-DPO on {"batch": negatives, "positives"} whose rows are pairs of one condition.

  Arguments as of `ndpo_objective`.

  Returns:
    An objective that gives `d`, `d_ref`, `d_positive`, `d_positive_ref`, `sigma` and `task`.
  """
  def objective(params: Params, batches: Batches):
    negative, positive = batches["batch"], batches["positives"]
    draws = draw(config.seed, config.loss, step, negative.example, negative.latents.shape[1:])
    errors = lambda params, batch: forward.errors(params, batch, draws, rope)
    of_reference = errors(reference, positive), errors(reference, negative)
    d_positive, d = errors(params, positive), errors(params, negative)
    terms = paired_dpo(d_positive, of_reference[0], d, of_reference[1], config.ndpo.beta)
    return jnp.mean(terms), {
        "d": d, "d_ref": of_reference[1], "d_positive": d_positive,
        "d_positive_ref": of_reference[0], "sigma": draws.sigma, "task": negative.task}

  return objective


def cell_weights(config: LossConfig, batch: Batch) -> jax.Array:
  """Weights of the latent cells in flow matching: 1, more in face and mouth, 0 in padded frames.

  Args:
    config: what is added in face and mouth.
    batch: of b examples; a token of its face region is 2 x 2 cells.

  Returns:
    float32 [b, f, H8, W8], of mean 1 for each example.
  """
  b, f, height, width, _ = batch.latents.shape
  weights = jnp.ones((b, f, height, width), jnp.float32)
  if config.face:
    region = batch.face_mask if batch.face_region is None else batch.face_region
    by_frame = jnp.moveaxis(region.astype(jnp.float32).reshape(b, region.shape[1], -1), 1, 2)  # [b, 1 or f, h w]
    face = by_frame.reshape(b, -1, *geometry.grid_of_latents((height, width)))
    weights += config.face * jnp.repeat(jnp.repeat(face, 2, axis=2), 2, axis=3)
  if config.mouth:
    weights += config.mouth * batch.mouth_mask.astype(jnp.float32)
  if batch.frame_mask is not None:
    weights *= batch.frame_mask.astype(jnp.float32)[:, :, None, None]
  return weights / jnp.mean(weights, axis=(1, 2, 3), keepdims=True)


def negative_dpo(d: jax.Array, d_ref: jax.Array | float, beta: jax.Array | float) -> jax.Array:
  """log(1 + exp(-beta (d - d_ref))) of each example; d_ref is 0 in the reading `absolute`."""
  return jax.nn.softplus(-beta * (d - d_ref))


def paired_dpo(d_positive: jax.Array, d_positive_ref: jax.Array, d_negative: jax.Array,
               d_negative_ref: jax.Array, beta: float) -> jax.Array:
  """Diffusion-DPO: -log sigmoid(-beta ((d+ - d+_ref) - (d- - d-_ref))) of each pair."""
  margin = (d_positive - d_positive_ref) - (d_negative - d_negative_ref)
  return jax.nn.softplus(beta * margin)


def init_calibration() -> dict[str, jax.Array]:
  """Sum and number of the mean errors that `absolute` has seen in the stage: none yet."""
  return {"total": jnp.zeros((), jnp.float32), "count": jnp.zeros((), jnp.int32)}


def update_calibration(calibration: dict, d: jax.Array, steps: int) -> dict[str, jax.Array]:
  """Adds the errors d [b] of a step, in the first `steps` of a stage."""
  more = calibration["count"] < steps
  return {"total": calibration["total"] + jnp.where(more, jnp.mean(d), 0.0),
          "count": calibration["count"] + more.astype(jnp.int32)}


def measured_beta(calibration: dict, d: jax.Array) -> jax.Array:
  """1 / mean(d) so far, [b]; the first step, which has no mean yet, takes each example's own d."""
  count = calibration["count"].astype(jnp.float32)
  mean = calibration["total"] / jnp.maximum(count, 1)
  return jax.lax.stop_gradient(1 / jnp.where(count > 0, mean, d))
