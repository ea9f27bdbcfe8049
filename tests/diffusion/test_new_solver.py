"""A solver made outside the package, with its public pieces alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.diffusion import schedules, solvers
from emv3_jax.errors import InputError
from emv3_jax.sampling.settings import SamplingConfig
from tests.sharding import tiny


class State(NamedTuple):
  x: jax.Array


class HalfEuler:
  """Goes half as far as Euler's method in every step."""

  def __init__(self, schedule: schedules.Schedule):
    self.schedule = schedule

  def init(self, x):
    return State(jnp.asarray(x, jnp.float32))

  def step(self, state, i, velocity):
    sigmas = jnp.asarray(self.schedule.sigmas)
    x = state.x + 0.5 * (sigmas[i + 1] - sigmas[i]) * jnp.float32(velocity)
    return x, State(x)


HALF = solvers.SolverSpec("half_euler", lambda steps, shift, config_shift: HalfEuler(
    schedules.euler_schedule(steps, shift)))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
  monkeypatch.setattr(solvers, "SOLVERS", dict(solvers.SOLVERS))
  solvers.register(HALF)


def test_a_clip_is_sampled_with_it():
  noise = tiny.noise_of(1)
  half, whole = (tiny.sampled(SamplingConfig(solver=name, steps=1, neg_steps=0)) - noise
                 for name in ("half_euler", "euler"))
  np.testing.assert_allclose(half, whole / 2, atol=1e-5 * np.abs(whole).max())


def test_its_name_is_known_and_its_own():
  assert isinstance(solvers.make_solver("half_euler", 3), solvers.Solver)
  with pytest.raises(InputError, match="'half_eule'; did you mean 'half_euler'"):
    SamplingConfig(solver="half_eule")
  solvers.register(HALF)
  with pytest.raises(ValueError, match="a solver 'euler' already"):
    solvers.register(solvers.SolverSpec("euler", HALF.make))
