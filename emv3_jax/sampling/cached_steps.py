"""Denoising that skips steps: programs of a step that keeps the blocks' residual, and of one that uses it.

Each guidance branch of each window has its own residual. The host picks the program of a step by a schedule that is
known beforehand, see `diffusion.step_caches`.
"""

from collections.abc import Callable, Iterable
import functools

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Float32
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.diffusion.guidance import Branches, Schedule
from emv3_jax.models.network import Params
from emv3_jax.runtime import kept_programs
from emv3_jax.sampling import watching
from emv3_jax.sampling.denoise import Conditions, Denoiser
from emv3_jax.sharding import mesh as mesh_lib
from emv3_jax.sharding.on_host import HostArray, to_host

Runs = Bool[np.ndarray, "steps"]


class Residuals:
  """Residuals that skipped steps use, of one clip.

  Args:
    runs: which steps run.
    on_host: whether residuals wait on the host, for clips of several groups of windows.
  """

  def __init__(self, runs: Runs, on_host: bool = False):
    self._runs, self._on_host = runs, on_host
    self._kept: dict[int, tuple[jax.Array | HostArray, Branches]] = {}

  def free(self, group: int = 0) -> None:
    """Forgets a residual that no step needs any more."""
    self._kept.pop(group, None)

  def put(self, i: int, residual: jax.Array, branches: Branches, group: int = 0) -> None:
    """Keeps what step i left, if the next step is skipped."""
    if i + 1 < len(self._runs) and not self._runs[i + 1]:
      self._kept[group] = to_host(residual) if self._on_host else residual, branches

  def get(self, group: int = 0) -> tuple[jax.Array, Branches]:
    """Returns the residual of a group of windows, and the branches that it is of."""
    residual, branches = self._kept[group]
    return residual.on_devices() if isinstance(residual, HostArray) else residual, branches


def evaluations(schedule: Schedule, runs: Runs | None) -> int:
  """Returns how many times the network's blocks run for one window: once for each branch of a step that runs."""
  return sum(len(step.branches) for i, step in enumerate(schedule) if runs is None or runs[i])


def branch_names(schedule: Schedule) -> list[tuple[str, ...]]:
  """Returns the names of the guidance branches that run at each step, as calibrations have them."""
  return [tuple(f"{branch.text}+{branch.audio}" for branch in step.branches) for step in schedule]


def residual_sharding(denoiser: Denoiser) -> NamedSharding:
  """Returns the sharding of the residuals that `Denoiser.forward` keeps."""
  leading = (None,) * (denoiser.settings.branches == "in_turn")
  return NamedSharding(denoiser.transformer.mesh, mesh_lib.spec(*leading, "batch", "length", None))


class CachedDenoiser:
  """Compiled denoising of a window that skips steps; any number of clips.

  Args:
    denoiser: the same without skipped steps.
  """

  def __init__(self, denoiser: Denoiser):
    self.denoiser = denoiser
    mesh, identity = denoiser.transformer.mesh, denoiser.identity
    whole = NamedSharding(mesh, PartitionSpec())
    residual = residual_sharding(denoiser)
    options = {"donate_argnums": 1, "keep_unused": True}
    self._keep = kept_programs.jit(self._kept_step, identity, **options, out_shardings=(whole, residual))
    self._skip = kept_programs.jit(self._skipped_step, identity, **options, out_shardings=whole)
    self._modulation = kept_programs.jit(self._all_modulations, identity, out_shardings=whole)

  def modulation(self, params: Params) -> Float32[np.ndarray, "steps 6 d"]:
    """Computes e0 of every step, on which TeaCache decides."""
    return np.asarray(self._modulation(params, self.denoiser.tables.sinusoid))

  def run(self, params: Params, noise: Float32[AnyArray, "b f H8 W8 c"], conditions: Conditions, runs: Runs,
          progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> Float32[jax.Array, "b f H8 W8 c"]:
    """Denoises `noise` to latents, as `Denoiser.run` does.

    Args:
      params, noise, conditions, progress: of `Denoiser.run`.
      runs: which steps run; where none is skipped the programs are those of `Denoiser.run`.
    """
    denoiser = self.denoiser
    if runs.all():
      return denoiser.run(params, noise, conditions, progress)
    table, tables = denoiser.rope_table(noise.shape, conditions.frames), denoiser.tables.tree()
    state = denoiser.start(noise)
    residuals, context, projected = Residuals(runs), None, None
    steps = progress(range(len(runs)))
    for i in steps:
      step = denoiser.schedule[i]
      if not runs[i]:
        state = self._skip(params, state, i, *residuals.get(), tables, conditions.condition, step.branches)
        watching.show(steps, state.x)
        continue
      residuals.free()
      if step.context != projected:
        context, projected = denoiser.project(params, conditions, step), step.context
      state, residual = self._keep(params, state, i, context, tables, table, conditions.condition,
                                   conditions.face_mask, step.branches)
      residuals.put(i, residual, step.branches)
      del residual
      watching.show(steps, state.x)
    return state.x

  def trace_step(self, params: Params, noise, conditions: Conditions) -> jax.stages.Traced:
    """Traces the program of a step that keeps its residual, as `Denoiser.trace_step` does."""
    return self.denoiser.trace_step(params, noise, conditions, self._keep)

  def _kept_step(self, params, state, i, context, tables, table, condition, face_mask, branches):
    row = {name: values[i] for name, values in tables.items()}
    velocities, residual = self.denoiser.forward(
        "keep", params, state.x, row, context, table, condition, face_mask, branches)
    return self.denoiser.advanced(state, i, row, velocities, branches), residual

  def _skipped_step(self, params, state, i, residual, kept, tables, condition, branches):
    row = {name: values[i] for name, values in tables.items()}
    residual = chosen(self.denoiser, residual, kept, branches, len(state.x))
    velocities, _ = self.denoiser.forward(
        "skip", params, state.x, row, residual, None, condition, None, branches)
    return self.denoiser.advanced(state, i, row, velocities, branches)

  def _all_modulations(self, params, sinusoid):
    transformer = self.denoiser.transformer
    return transformer.network.bind(params).time_modulation(sinusoid, transformer.execution)[1]


def by_branch(denoiser: Denoiser, residual: Float[AnyArray, "*rows s d"], branches: Branches, b: int
              ) -> Float[AnyArray, "branches b s d"]:
  """Cuts a residual into those of its branches, of b windows each."""
  if denoiser.settings.branches == "in_turn":
    return residual[:, :b]
  return residual[:len(branches) * b].reshape(len(branches), b, *residual.shape[1:])


def chosen(denoiser: Denoiser, residual: Float[AnyArray, "*rows s d"], kept: Branches, branches: Branches, b: int
           ) -> Float[AnyArray, "*taken s d"]:
  """Takes the residuals of the branches that still run, in the form that `Denoiser.forward` takes.

  Args:
    denoiser: where it is from.
    residual: of the branches `kept`.
    branches: those that run, all of them in `kept`.
    b: number of windows.
  """
  if kept == branches:
    return residual
  taken = by_branch(denoiser, residual, kept, b)[np.array([kept.index(branch) for branch in branches])]
  if denoiser.settings.branches == "in_turn":
    return jax.vmap(denoiser.transformer.pad)(taken)
  return denoiser.transformer.pad(taken.reshape(-1, *taken.shape[2:]))


make_cached_denoiser = functools.cache(CachedDenoiser)


def denoise(denoiser: Denoiser, params: Params, noise: Float32[AnyArray, "b f H8 W8 c"], conditions: Conditions,
            runs: Runs | None, progress: Callable[[Iterable[int]], Iterable[int]]) -> Float32[jax.Array, "b f H8 W8 c"]:
  """Denoises a window with `Denoiser.run`, or with `CachedDenoiser.run` where steps can be skipped."""
  if runs is None:
    return denoiser.run(params, noise, conditions, progress)
  return make_cached_denoiser(denoiser).run(params, noise, conditions, runs, progress)
