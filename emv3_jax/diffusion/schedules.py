"""Noise levels of the sampling steps, computed on the host to the reference's last bit.

Each solver of the released scripts lays out its own levels. What they have in common is that the
shift acts more than once, on different quantities; the numbers below follow them exactly.
"""

import dataclasses

from jaxtyping import Float, Float32
import numpy as np

from emv3_jax.diffusion.flow import shift_sigma
from emv3_jax.geometry import TAU_MAX


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
  """Noise levels and timesteps of the sampling steps.

  Attributes:
    taus: the network's timestep at each step, in (0, 1000]; whole numbers where
      the reference truncates.
    sigmas: falling, sigmas[i] before and sigmas[i + 1] after step i; ends at 0.
  """

  taus: Float32[np.ndarray, "steps"]
  sigmas: Float32[np.ndarray, "steps+1"]

  @property
  def steps(self) -> int:
    return len(self.taus)


def euler_schedule(steps: int, shift: float) -> Schedule:
  """Levels of diffusers' FlowMatchEulerDiscreteScheduler.

  The lowest level is that of step 1 of 1000 after the shift, and the levels laid out above it are
  shifted again: with shift 5 the last step starts at sigma 0.0244.
  """
  lowest = float(shift_sigma(np.float32(1) / np.float32(TAU_MAX), np.float32(shift)))
  levels = np.linspace(TAU_MAX, lowest * TAU_MAX, steps) / TAU_MAX
  sigmas = shift_sigma(levels, shift).astype(np.float32)
  return Schedule(sigmas * np.float32(TAU_MAX), _to_zero(sigmas))


def unipc_schedule(steps: int, shift: float, config_shift: float) -> Schedule:
  """Levels of the reference's FlowUniPC: from 0.999, shifted by both, down to 0.

  Args:
    steps: number of steps.
    shift: shift given for this run.
    config_shift: shift that the scheduler was built with: 5 in preview, 1 in flash.
  """
  highest = float(shift_sigma(np.float32(1 - 1 / TAU_MAX), np.float32(config_shift)))
  levels = shift_sigma(np.linspace(highest, 0, steps + 1)[:-1], shift)
  return Schedule(_whole_taus(levels), _to_zero(levels))


def dpmpp_schedule(steps: int, shift: float, config_shift: float) -> Schedule:
  """Levels of the reference's FlowDPM++: from exactly 1, shifted by `shift`, then `config_shift`.

  In preview (5 and 5) the shift therefore acts twice, in flash (5 and 1) once.
  """
  levels = shift_sigma(np.linspace(1, 0, steps + 1)[:-1], shift)
  levels = shift_sigma(levels, config_shift)
  return Schedule(_whole_taus(levels), _to_zero(levels))


def _whole_taus(levels: Float[np.ndarray, "steps"]) -> Float32[np.ndarray, "steps"]:
  return (levels * TAU_MAX).astype(np.int64).astype(np.float32)


def _to_zero(levels: Float[np.ndarray, "steps"]) -> Float32[np.ndarray, "steps+1"]:
  return np.append(levels, 0).astype(np.float32)
