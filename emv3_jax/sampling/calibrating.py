"""Measures what step caches need to know of a model: a run that skips nothing, compared step by step."""

from collections.abc import Callable, Iterable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, Float32
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.diffusion import step_caches
from emv3_jax.models.network import Params
from emv3_jax.runtime import kept_programs
from emv3_jax.sampling.cached_steps import (
  branch_names,
  by_branch,
  make_cached_denoiser,
  residual_sharding,
)
from emv3_jax.sampling.denoise import Conditions, Denoiser


class Measured(NamedTuple):
  """What is measured at each step, NaN at the first.

  Attributes:
    ratios: of each guidance branch, by name: mean over tokens of the residual's magnitude to that at the step before.
    changes: relative changes of the time modulation e0.
    outputs: relative changes of the velocities of all branches together.
  """

  ratios: dict[str, Float[np.ndarray, "steps"]]
  changes: Float[np.ndarray, "steps"]
  outputs: Float[np.ndarray, "steps"]


class Calibrator:
  """Compiled denoising that compares each step with the one before.

  Args:
    denoiser: of a window.
  """

  def __init__(self, denoiser: Denoiser):
    self.denoiser = denoiser
    whole = NamedSharding(denoiser.transformer.mesh, PartitionSpec())
    self._step = kept_programs.jit(self._one_step, denoiser.identity, keep_unused=True,
                                   out_shardings=(whole, whole, residual_sharding(denoiser)))
    self._compare = kept_programs.jit(self._comparison, denoiser.identity, out_shardings=whole)

  def run(self, params: Params, noise: Float32[AnyArray, "b f H8 W8 c"], conditions: Conditions,
          progress: Callable[[Iterable[int]], Iterable[int]] = iter
          ) -> tuple[Float32[jax.Array, "b f H8 W8 c"], Measured]:
    """Denoises as `Denoiser.run` does, whose arguments these are, and measures."""
    denoiser = self.denoiser
    steps, names = denoiser.settings.steps, branch_names(denoiser.schedule)
    ratios = {name: np.full(steps, np.nan) for name in dict.fromkeys(name for step in names for name in step)}
    outputs = np.full(steps, np.nan)
    table, tables = denoiser.rope_table(noise.shape, conditions.frames), denoiser.tables.tree()
    state, context, projected, before = denoiser.start(noise), None, None, None
    for i in progress(range(steps)):
      step = denoiser.schedule[i]
      if step.context != projected:
        context, projected = denoiser.project(params, conditions, step), step.context
      state, *now = self._step(params, state, i, context, tables, table, conditions.condition, conditions.face_mask,
                               step.branches)
      now.append(step.branches)
      if before is not None:
        found, changed = self._compare(before, now)
        outputs[i] = changed
        for name, ratio in zip([name for name in names[i] if name in names[i - 1]], np.asarray(found), strict=True):
          ratios[name][i] = ratio
      before = now
    changes = step_caches.relative_changes(make_cached_denoiser(denoiser).modulation(params))
    return state.x, Measured(ratios, changes, outputs)

  def _one_step(self, params, state, i, context, tables, table, condition, face_mask, branches):
    row = {name: values[i] for name, values in tables.items()}
    velocities, residual = self.denoiser.forward(
        "keep", params, state.x, row, context, table, condition, face_mask, branches)
    return self.denoiser.advanced(state, i, row, velocities, branches), velocities, residual

  def _comparison(self, before, now):
    """Compares (velocities, residual, branches) of two steps, of the branches that both have."""
    both = [branch for branch in now[2] if branch in before[2]]

    def taken(step):
      velocities, residual, branches = step
      rows = np.array([branches.index(branch) for branch in both])
      residual = by_branch(self.denoiser, residual, branches, velocities.shape[1])
      return velocities[rows], jnp.linalg.norm(residual[rows].astype(jnp.float32), axis=-1)

    (earlier, size_before), (later, size) = taken(before), taken(now)
    ratios = jnp.mean(size / size_before, axis=range(1, size.ndim))
    return ratios, jnp.mean(jnp.abs(later - earlier)) / jnp.mean(jnp.abs(earlier))


make_calibrator = functools.cache(Calibrator)
