"""The losses against slow versions in numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.training.objectives import losses
from emv3_jax.training.objectives.forward import mean_squared_error
from emv3_jax.training.settings import LossConfig
from tests.training import tiny


def _slow_error(velocity, target, face, mouth, config):
  """One clip: mean over cells, those in the face and the mouth counted more."""
  total = weight_sum = 0.0
  f, height, width, _ = target.shape
  for i, y, x in np.ndindex(f, height, width):
    weight = 1 + config.face * face[(y // 2) * (width // 2) + x // 2] + config.mouth * mouth[i, y, x]
    total += weight * np.mean((np.float64(velocity[i, y, x]) - target[i, y, x]) ** 2)
    weight_sum += weight
  return total / weight_sum


@pytest.mark.parametrize("face, mouth", [(0.0, 0.0), (1.5, 0.0), (0.5, 3.0)])
def test_flow_matching_error_is_the_slow_one(face, mouth, rng):
  batch, config = tiny.batch_of(range(3)), LossConfig(face=face, mouth=mouth)
  target, velocity = rng.normal(size=(2, *batch.latents.shape)).astype(np.float32)
  got = mean_squared_error(velocity, target, losses.cell_weights(config, batch))
  want = [_slow_error(velocity[i], target[i], batch.face_mask[i], batch.mouth_mask[i], config)
          for i in range(3)]
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_face_that_moves_counts_more_where_it_is(rng):
  batch, config = tiny.batch_of(range(2)), LossConfig(face=1.5, mouth=0.0)
  b, f, height, width, _ = batch.latents.shape
  moving = rng.integers(0, 2, (b, height // 2 * width // 2, f)).astype(np.float32)
  got = losses.cell_weights(config, dataclasses.replace(batch, face_mask=moving))
  by_frame = [losses.cell_weights(config, dataclasses.replace(batch, face_mask=moving[..., i]))[:, i] for i in range(f)]
  ratio = got / np.stack(by_frame, axis=1)  # each has a mean of 1 of its own
  np.testing.assert_allclose(np.ptp(ratio, axis=(2, 3)), 0, atol=1e-6)
  assert len(np.unique(np.round(np.asarray(got[0]), 5))) == 2


def test_the_loss_knows_the_face_where_the_audio_acts_everywhere(rng):
  batch, config = tiny.batch_of(range(3)), LossConfig(face=1.5, mouth=0.0)
  everywhere = dataclasses.replace(batch, face_mask=np.ones_like(batch.face_mask),
                                   face_region=batch.face_mask)
  np.testing.assert_array_equal(losses.cell_weights(config, everywhere),
                                losses.cell_weights(config, batch))


def test_padded_frames_have_no_part_in_the_loss(rng):
  frame_mask = np.array([[1, 1], [1, 0], [0, 1]], np.float32)
  batch = dataclasses.replace(tiny.batch_of(range(3)), frame_mask=frame_mask)
  target, velocity = rng.normal(size=(2, *batch.latents.shape)).astype(np.float32)
  error = lambda velocity, batch: mean_squared_error(
      velocity, target, losses.cell_weights(LossConfig(mouth=1.0), batch))
  whole = error(velocity, batch)
  velocity[1, 1] = velocity[2, 0] = 1e3
  np.testing.assert_array_equal(error(velocity, batch), whole)
  assert (np.asarray(error(velocity, dataclasses.replace(batch, frame_mask=np.ones((3, 2), np.float32))))[1:] > 1e3).all()


def test_errors_are_float32_whatever_comes_in():
  large = jnp.full((1, 2, 2, 2, 16), 3.0, jnp.bfloat16)
  error = mean_squared_error(large + jnp.bfloat16(0.0156), large)
  assert error.dtype == jnp.float32
  np.testing.assert_allclose(error, 0.015625 ** 2, rtol=1e-6)


@pytest.mark.parametrize("beta", [0.5, 500.0])
def test_negative_dpo_is_the_slow_one(beta, rng):
  d, d_ref = rng.uniform(0.01, 1, (2, 16))
  d_ref = d + 0.01 * (d_ref - 0.5)
  slow = [np.log(1 + np.exp(-beta * (a - b))) for a, b in zip(d, d_ref, strict=True)]
  np.testing.assert_allclose(losses.negative_dpo(d, d_ref, beta), slow, rtol=1e-4)
  absolute = [np.log(1 + np.exp(-beta * a)) for a in d]
  np.testing.assert_allclose(losses.negative_dpo(d, 0.0, beta), absolute, rtol=1e-4, atol=1e-30)


def test_losses_are_log_2_exactly_where_the_model_is_its_reference(rng):
  d, other = rng.uniform(0, 1, (2, 8)).astype(np.float32)
  assert (np.asarray(losses.negative_dpo(d, d, 500.0)) == np.float32(np.log(2))).all()
  paired = losses.paired_dpo(d, d, other, other, 500.0)
  assert (np.asarray(paired) == np.float32(np.log(2))).all()


def test_what_is_unlikely_already_is_left_alone():
  weight = jax.grad(lambda d: losses.negative_dpo(d, 1.0, 500.0))
  assert weight(1.0) == -250
  assert abs(weight(1.01)) < 0.01 * 500
  assert np.isfinite(weight(1e6)) and np.isfinite(losses.negative_dpo(-1e6, 0.0, 500.0))


def test_paired_dpo_is_the_slow_one(rng):
  d_positive, ref_positive, d_negative, ref_negative = rng.uniform(0, 1, (4, 8))
  margin = (d_positive - ref_positive) - (d_negative - ref_negative)
  slow = -np.log(1 / (1 + np.exp(3.0 * margin)))
  got = losses.paired_dpo(d_positive, ref_positive, d_negative, ref_negative, 3.0)
  np.testing.assert_allclose(got, slow, rtol=1e-4)
