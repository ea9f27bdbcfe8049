"""Path, velocity, shift and training densities of rectified flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.diffusion import flow
from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.errors import InputError

KEY = key_for(0, Purpose.TRAINING_SIGMA)


def test_path_runs_from_clean_to_noise_at_the_target_velocity(rng):
  clean, noise = rng.normal(size=(2, 3, 2, 4, 4, 16)).astype(np.float32)
  velocity = flow.velocity_target(clean, noise)
  sigma = np.array([0.0, 0.25, 1.0], np.float32)
  x = flow.interpolate(clean, noise, sigma)
  np.testing.assert_array_equal(x[0], clean[0])
  np.testing.assert_array_equal(x[2], noise[2])
  np.testing.assert_allclose(x[1], clean[1] + 0.25 * velocity[1], atol=1e-6)


def test_half_precision_latents_are_mixed_in_float32(rng):
  clean, noise = jax.numpy.asarray(rng.normal(size=(2, 1, 8)), jax.numpy.bfloat16)
  sigma = np.array([0.3], np.float32)
  assert flow.interpolate(clean, noise, sigma).dtype == np.float32
  assert flow.velocity_target(clean, noise).dtype == np.float32


def test_shift_moves_towards_noise_and_keeps_the_ends():
  sigma = np.array([0.0, 0.5, 1.0])
  np.testing.assert_allclose(flow.shift_sigma(sigma, 5.0), [0, 5 / 6, 1])
  assert flow.tau(flow.shift_sigma(0.5, 5.0)) == pytest.approx(2500 / 3)


# Quartiles of u ~ uniform are 1/4, 1/2, 3/4; of a normal variable mean -+ 0.67449 std.
@pytest.mark.parametrize("density, quartiles", [
    (flow.SigmaDensity(), [0.25, 0.5, 0.75]),
    (flow.SigmaDensity(shift=5.0), [0.625, 5 / 6, 0.9375]),
    (flow.SigmaDensity("logit_normal"), [0.33749, 0.5, 0.66251]),
    (flow.SigmaDensity("logit_normal", mean=1.0, std=0.5, shift=5.0), [0.90653, 0.93147, 0.95013]),
])
def test_density_quartiles(density, quartiles):
  sigma = np.asarray(density.draw(KEY, (20_000,)))
  assert sigma.dtype == np.float32 and sigma.min() >= 0 and sigma.max() <= 1
  np.testing.assert_allclose(np.quantile(sigma, [0.25, 0.5, 0.75]), quartiles, atol=0.012)


def test_density_is_a_pure_function_of_the_key():
  density = flow.SigmaDensity("logit_normal")
  np.testing.assert_array_equal(density.draw(KEY, (4,)), jax.jit(lambda k: density.draw(k, (4,)))(KEY))
  assert density.draw(KEY) != density.draw(key_for(0, Purpose.TRAINING_SIGMA, 1))


def test_density_errors():
  with pytest.raises(InputError, match="'cosine'; known: uniform, logit_normal"):
    flow.SigmaDensity("cosine")
  with pytest.raises(InputError, match="above 0"):
    flow.SigmaDensity(shift=0.0)


def test_linear_error_is_that_of_least_squares():
  rng = np.random.default_rng(0)
  clean = (rng.normal(size=(20000, 3)) * (0.3, 1.0, 2.0) + (1.0, 0.0, -3.0)).astype(np.float32)
  noise = rng.normal(size=clean.shape).astype(np.float32)
  for sigma in (0.1, 0.5, 0.9):
    x, velocity = (1 - sigma) * clean + sigma * noise, noise - clean
    squares = []
    for channel in range(3):
      known = np.stack([x[:, channel], np.ones(len(x))], 1)
      solution = np.linalg.lstsq(known, velocity[:, channel], rcond=None)[0]
      squares.append(np.square(known @ solution - velocity[:, channel]).mean())
    assert float(flow.linear_error(jnp.asarray(clean), sigma)) == pytest.approx(
        np.mean(squares), rel=0.03)
