"""Losses, in float32: flow matching, negative DPO (eq. 3), paired Diffusion-DPO.

Eq. 3 prints log-likelihoods, which are to be maximised; the loss is the negative of the second line,

  L = E log(1 + pi(y- | p-)).

A flow has no cheap likelihood. With d the mean squared error of the velocity on the negative clip,
two readings of pi are here:

  reference  pi = exp(-beta (d - d_ref)): likelihood beside that of the frozen model the negatives
             came from. log 2 where both are the same, and bounded: a negative that is already
             unlikely by much is left alone.
  absolute   pi = exp(-beta d), beta = 1 / mean(d): as printed, without a reference.
"""

import jax
import jax.numpy as jnp

from emv3_jax.training.settings import LossConfig


def cell_weights(config: LossConfig, batch: dict[str, jax.Array]) -> jax.Array:
  """Weights of the latent cells: 1, more in face and mouth, 0 in padded frames.

  Args:
    config: what is added in face and mouth.
    batch: latents [b, f, H8, W8, 16]; face_region [b, h * w] of tokens of 2 x 2 cells
      (absent: face_mask) and mouth_mask [b, f, H8, W8], 1 inside; frame_mask [b, f], 0 for padded frames, may be absent.

  Returns:
    float32 [b, f, H8, W8], of mean 1 for each example.
  """
  b, f, height, width, _ = batch["latents"].shape
  weights = jnp.ones((b, f, height, width), jnp.float32)
  if config.face:
    face = batch.get("face_region", batch["face_mask"]).astype(jnp.float32).reshape(b, 1, height // 2, width // 2)
    weights += config.face * jnp.repeat(jnp.repeat(face, 2, axis=2), 2, axis=3)
  if config.mouth:
    weights += config.mouth * batch["mouth_mask"].astype(jnp.float32)
  if "frame_mask" in batch:
    weights *= batch["frame_mask"].astype(jnp.float32)[:, :, None, None]
  return weights / jnp.mean(weights, axis=(1, 2, 3), keepdims=True)


def mean_squared_error(velocity: jax.Array, target: jax.Array,
                       weights: jax.Array | None = None) -> jax.Array:
  """Mean over an example's numbers [b, f, H8, W8, c], cells weighted by [b, f, H8, W8]: [b]."""
  error = jnp.square(velocity.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)
  return jnp.mean(error if weights is None else error * weights, axis=(1, 2, 3))


def negative_dpo(d: jax.Array, d_ref: jax.Array | float, beta: jax.Array | float) -> jax.Array:
  """log(1 + exp(-beta (d - d_ref))) of each example; d_ref is 0 in the reading `absolute`."""
  return jax.nn.softplus(-beta * (d - d_ref))


def paired_dpo(d_positive: jax.Array, d_positive_ref: jax.Array, d_negative: jax.Array,
               d_negative_ref: jax.Array, beta: float) -> jax.Array:
  """Diffusion-DPO: -log sigmoid(-beta ((d+ - d+_ref) - (d- - d-_ref))) of each pair."""
  margin = (d_positive - d_positive_ref) - (d_negative - d_negative_ref)
  return jax.nn.softplus(beta * margin)
