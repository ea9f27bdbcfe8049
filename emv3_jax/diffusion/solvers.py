"""One interface to solvers, the table of those that settings name, and Euler's method itself."""

from collections.abc import Callable
import dataclasses
import difflib
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float32, Num

from emv3_jax.arrays import AnyArray
from emv3_jax.diffusion import multistep, schedules
from emv3_jax.errors import InputError


@runtime_checkable
class Solver(Protocol):
  """Integrates dx/dsigma = velocity from noise down to clean latents.

  `step` is pure and may be jitted with a traced `i`; a solver closes over small host tables only.
  States are NamedTuples of float32 arrays, latents first (`state.x`), whatever dtype the network
  computes in.
  """

  schedule: schedules.Schedule

  def init(self, x: Num[AnyArray, "*shape"]) -> Any:
    """State before the first step.

    Args:
      x: noise of any shape; read as float32.
    """
    ...

  def step(self, state: Any, i: ArrayLike, velocity: Num[AnyArray, "*shape"]
           ) -> tuple[Float32[jax.Array, "*shape"], Any]:
    """One step.

    Args:
      state: of `init` or of the step before.
      i: index of the step, from 0.
      velocity: guided prediction of the network at `state.x` and tau `schedule.taus[i]`.

    Returns:
      the latents at sigma `schedule.sigmas[i + 1]`, float32, and the state that also holds them.
    """
    ...


class EulerState(NamedTuple):
  x: jax.Array  # latents, float32


class Euler:
  """x + (sigma_next - sigma) velocity."""

  def __init__(self, schedule: schedules.Schedule):
    self.schedule = schedule

  def init(self, x: Num[AnyArray, "*shape"]) -> EulerState:
    return EulerState(jnp.asarray(x, jnp.float32))

  def step(self, state: EulerState, i: ArrayLike, velocity: Num[AnyArray, "*shape"]
           ) -> tuple[Float32[jax.Array, "*shape"], EulerState]:
    sigmas = jnp.asarray(self.schedule.sigmas)
    x = state.x + (sigmas[i + 1] - sigmas[i]) * jnp.float32(velocity)
    return x, EulerState(x)


@dataclasses.dataclass(frozen=True)
class SolverSpec:
  """A solver that settings can name.

  Attributes:
    name: as in configs.
    make: from steps, shift and config_shift, see `make_solver`, to the solver with its schedule.
  """

  name: str
  make: Callable[[int, float, float], Solver]


SOLVERS = {spec.name: spec for spec in (
    SolverSpec("euler", lambda steps, shift, config_shift: Euler(
        schedules.euler_schedule(steps, shift))),
    SolverSpec("unipc", lambda steps, shift, config_shift: multistep.UniPC(
        schedules.unipc_schedule(steps, shift, config_shift))),
    SolverSpec("dpmpp", lambda steps, shift, config_shift: multistep.DPMSolverPP(
        schedules.dpmpp_schedule(steps, shift, config_shift))),
)}


def register(spec: SolverSpec) -> None:
  """Adds a solver to those that settings of this process can name.

  Raises:
    ValueError: another solver has the name.
  """
  if SOLVERS.setdefault(spec.name, spec) != spec:
    raise ValueError(f"There is a solver {spec.name!r} already; register it under another name.")


def check_name(name: str) -> None:
  """Checks the name of a solver.

  Raises:
    InputError: no such solver.
  """
  if name not in SOLVERS:
    near = difflib.get_close_matches(name, SOLVERS, n=1, cutoff=0)[0]
    raise InputError(
        f"Unknown solver {name!r}; did you mean {near!r}? Known: {', '.join(SOLVERS)}.")


def make_solver(name: str, steps: int, shift: float = 5.0, config_shift: float = 5.0) -> Solver:
  """Builds a solver with its schedule.

  Args:
    name: `euler`, `unipc`, `dpmpp`, or one that was registered.
    steps: number of steps, at least 1.
    shift: timestep shift of this run; released 5.
    config_shift: second shift that `unipc` and `dpmpp` apply: 5 in preview, 1 in flash. `euler` has
      no such second shift (it applies `shift` twice by itself) and does not read it.

  Raises:
    InputError: unknown name, or a number out of range.
  """
  check_name(name)
  if steps < 1:
    raise InputError(f"Solver steps is {steps}; at least 1 is needed.")
  if not (0 < shift < float("inf") and 0 < config_shift < float("inf")):
    raise InputError(f"Solver shift is {shift} and config_shift is {config_shift}; "
                     "both must be finite and above 0.")
  return SOLVERS[name].make(steps, shift, config_shift)
