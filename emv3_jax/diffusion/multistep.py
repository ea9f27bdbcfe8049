"""Second-order multistep solvers in the half log signal-to-noise ratio: DPM-Solver++ and UniPC.

With alpha = 1 - sigma and lambda = log(alpha / sigma), a step from s to t of width
h = lambda_t - lambda_s solves the linear part of the flow exactly and needs the clean latents in
between only as an average c:

    x_t = sigma_t / sigma_s x_s + alpha_t (1 - exp(-h)) c.

The solvers differ in c. DPM-Solver++(2M) extrapolates a line through the last two clean estimates,
c = m_0 + (m_0 - m_1) h / (2 h_1). UniPC (order 2, bh2) predicts with the same line; once the
network has answered at t, it takes that step again with the answer m_t in the average (the
corrector) before it goes on. First and last steps use c = m_0.

The coefficients come from the host, in float32 and in the order of the reference's operations:
some are small differences of large numbers, whose rounding is part of the released numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float32, Num
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.diffusion.schedules import Schedule


class LambdaGrid(NamedTuple):
  """Levels of a schedule on the lambda axis; all float32, [steps + 1] or [steps].

  sigma = 1 lies at -infinity and sigma = 0 at +infinity; the formulas above keep their limits.
  """

  sigmas: Float32[np.ndarray, "steps+1"]
  alphas: Float32[np.ndarray, "steps+1"]
  widths: Float32[np.ndarray, "steps"]  # h of each step

  @classmethod
  def of(cls, schedule: Schedule) -> "LambdaGrid":
    sigmas = schedule.sigmas
    alphas = 1 - sigmas
    with np.errstate(divide="ignore"):
      lambdas = np.log(alphas) - np.log(sigmas)
    return cls(sigmas, alphas, np.diff(lambdas))

  @property
  def keep(self) -> Float32[np.ndarray, "steps"]:
    """Share of x_s in x_t."""
    return self.sigmas[1:] / self.sigmas[:-1]

  def slopes(self) -> Float32[np.ndarray, "steps"]:
    """Weight of (m_0 - m_1) in each step's average; 0 in the first and the last step."""
    slopes = np.zeros_like(self.widths)
    for i in range(1, len(slopes) - 1):
      slopes[i] = np.float32(0.5) / (self.widths[i - 1] / self.widths[i])
    return slopes


class DPMState(NamedTuple):
  x: jax.Array  # latents, float32
  clean: jax.Array  # clean estimate of the step before


class DPMSolverPP:
  """DPM-Solver++(2M), midpoint form, as in the reference's FlowDPM++."""

  def __init__(self, schedule: Schedule):
    grid = LambdaGrid.of(schedule)
    self.schedule = schedule
    self._sigmas = grid.sigmas
    self._keep = grid.keep
    self._gain = -(grid.alphas[1:] * (np.exp(-grid.widths) - 1))
    self._slope = grid.slopes()

  def init(self, x: Num[AnyArray, "*shape"]) -> DPMState:
    x = jnp.asarray(x, jnp.float32)
    return DPMState(x, jnp.zeros_like(x))

  def step(self, state: DPMState, i: ArrayLike, velocity: Num[AnyArray, "*shape"]
           ) -> tuple[Float32[jax.Array, "*shape"], DPMState]:
    at = lambda table: jnp.asarray(table)[i]
    clean = state.x - at(self._sigmas) * jnp.float32(velocity)
    average = clean + at(self._slope) * (clean - state.clean)
    x = at(self._keep) * state.x + at(self._gain) * average
    return x, DPMState(x, clean)


class UniPCState(NamedTuple):
  x: jax.Array  # latents, float32
  start: jax.Array  # corrected latents that the last step set out from
  clean: jax.Array  # clean estimate of the step before
  earlier: jax.Array  # and of the one before that


class UniPC:
  """UniPC of order 2 with the bh2 weighting, corrector from the second step on."""

  def __init__(self, schedule: Schedule):
    grid = LambdaGrid.of(schedule)
    self.schedule = schedule
    self._sigmas = grid.sigmas
    self._keep = grid.keep
    self._gain = -(grid.alphas[1:] * np.expm1(-grid.widths))
    self._slope = grid.slopes()
    self._past, self._present = _corrector_weights(grid.widths)

  def init(self, x: Num[AnyArray, "*shape"]) -> UniPCState:
    x = jnp.asarray(x, jnp.float32)
    return UniPCState(x, x, jnp.zeros_like(x), jnp.zeros_like(x))

  def step(self, state: UniPCState, i: ArrayLike, velocity: Num[AnyArray, "*shape"]
           ) -> tuple[Float32[jax.Array, "*shape"], UniPCState]:
    at = lambda table, i=i: jnp.asarray(table)[i]
    clean = state.x - at(self._sigmas) * jnp.float32(velocity)

    last = jnp.maximum(jnp.asarray(i) - 1, 0)
    average = (state.clean + at(self._past) * (state.clean - state.earlier)
               + at(self._present) * (clean - state.clean))
    corrected = at(self._keep, last) * state.start + at(self._gain, last) * average
    start = jnp.where(jnp.asarray(i) > 0, corrected, state.x)

    average = clean + at(self._slope) * (clean - state.clean)
    x = at(self._keep) * start + at(self._gain) * average
    return x, UniPCState(x, start, clean, state.clean)


def _corrector_weights(widths: Float32[np.ndarray, "steps"]
                       ) -> tuple[Float32[np.ndarray, "steps"], Float32[np.ndarray, "steps"]]:
  """Weights in the average of (m_0 - m_1) and of (m_t - m_0), when step i corrects step i - 1.

  They solve UniPC's order conditions: with B = exp(-h) - 1, psi_1 = -B / h - 1 and
  psi_2 = -psi_1 / h - 1/2, the weighted clean estimates integrate polynomials in lambda exactly.
  """
  past, present = np.zeros_like(widths), np.zeros_like(widths)
  present[1:2] = 0.5  # one estimate behind: first order
  for i in range(2, len(widths)):
    h = widths[i - 1]
    ratio = widths[i - 2] / h
    b = np.expm1(-h)
    psi_1 = b / -h - 1
    psi_2 = psi_1 / -h - np.float32(0.5)
    first, second = psi_1 / b, 2 * psi_2 / b
    on_past = (first - second) / (1 + ratio)
    past[i] = on_past / ratio
    present[i] = first - on_past
  return past, present
