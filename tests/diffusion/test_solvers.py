"""Schedules and solvers against the reference, and their order of convergence."""

import jax
import numpy as np
import pytest

from emv3_jax.diffusion import schedules
from emv3_jax.diffusion.solvers import SOLVERS, make_solver
from emv3_jax.errors import InputError
from tests import golden_data

STEP_COUNTS = (1, 2, 3, 8)


def reference_solver(case):
  name = case.name.split("/")[1].split("_")[0]
  return make_solver(name, len(case["timesteps"]), 5.0, case.meta["config_shift"])


@golden_data.cases("schedulers", "*")
def test_schedule_is_the_reference_to_the_last_bit(name):
  case = golden_data.load("schedulers", name)
  schedule = reference_solver(case).schedule
  assert schedule.taus.dtype == schedule.sigmas.dtype == np.float32
  np.testing.assert_array_equal(schedule.taus, case["timesteps"])
  np.testing.assert_array_equal(schedule.sigmas, case["sigmas"])


@golden_data.cases("schedulers", "*")
def test_trajectory(name):
  case = golden_data.load("schedulers", name)
  solver = reference_solver(case)
  step = jax.jit(solver.step)
  state, trajectory = solver.init(case["x0"]), [case["x0"]]
  for i, velocity in enumerate(case["model_out"]):
    x, state = step(state, i, velocity)
    np.testing.assert_array_equal(x, state.x)
    trajectory.append(x)
  golden_data.check(f"solver {name.split('_')[0]}", np.stack(trajectory), case["traj"], 1e-6)


def test_dpmpp_of_preview_is_shifted_twice():
  taus = schedules.dpmpp_schedule(8, 5.0, 5.0).taus
  np.testing.assert_array_equal(taus, [1000, 994, 986, 976, 961, 937, 892, 781])


def sample(solver, velocity, x):
  """Runs all steps in one `lax.scan`, so that the step index is traced."""
  taus = jax.numpy.asarray(solver.schedule.taus)

  def body(state, i):
    x, state = solver.step(state, i, velocity(state.x, taus[i] / 1000, i))
    return state, x

  return jax.lax.scan(body, solver.init(x), jax.numpy.arange(solver.schedule.steps))[0].x


@pytest.mark.parametrize("steps", STEP_COUNTS)
@pytest.mark.parametrize("name", SOLVERS)
def test_a_straight_path_is_followed_exactly(name, steps, rng):
  clean, noise = rng.normal(size=(2, 4, 4)).astype(np.float32)
  solver = make_solver(name, steps)
  start = solver.schedule.sigmas[0]
  x = sample(solver, lambda x, sigma, i: noise - clean, clean + start * (noise - clean))
  np.testing.assert_allclose(x, clean, atol=2e-6)


@pytest.mark.parametrize("name, order", [("euler", 1), ("dpmpp", 2), ("unipc", 3)])
def test_order_of_convergence(name, order, rng):
  """Half the step divides the error halfway down by 2^order; the corrector is worth one order.

  For normal data of deviation s the flow is known: x_sigma / noise = sqrt((1-sigma)^2 s^2 + sigma^2).
  """
  noise = rng.normal(size=16).astype(np.float32)
  variance = lambda sigma: (1 - sigma) ** 2 * 0.25 + sigma**2

  def error(steps):
    solver = make_solver(name, steps, 1.0, 1.0)
    sigmas = solver.schedule.sigmas
    step = jax.jit(solver.step)
    state = solver.init(noise * np.sqrt(variance(sigmas[0])))
    for i in range(steps // 2):
      slope = (sigmas[i] - (1 - sigmas[i]) * 0.25) / variance(sigmas[i])
      x, state = step(state, i, state.x * slope)
    return np.abs(x - noise * np.sqrt(variance(sigmas[steps // 2]))).max()

  assert 0.8 * 2**order < error(20) / error(40) < 1.5 * 2**order


@pytest.mark.parametrize("name", SOLVERS)
def test_bfloat16_velocities_leave_the_state_in_float32(name, rng):
  solver = make_solver(name, 3)
  x = jax.numpy.asarray(rng.normal(size=(2, 2)), jax.numpy.bfloat16)
  state = solver.init(x)
  _, after = solver.step(state, 0, x)
  for leaf in jax.tree.leaves((state, after)):
    assert leaf.dtype == np.float32


def test_errors():
  with pytest.raises(InputError, match="'unipcc'; did you mean 'unipc'"):
    make_solver("unipcc", 5)
  with pytest.raises(InputError, match="steps is 0"):
    make_solver("euler", 0)
  with pytest.raises(InputError, match="shift is 0"):
    make_solver("dpmpp", 5, shift=0.0)
