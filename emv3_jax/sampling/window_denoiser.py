"""The denoising loop of a clip that is longer than a window.

At each step the windows are computed in groups, and what they say is added up to the velocity of the clip, along
which the solver steps, see `diffusion.windows`. Latents and the solver's state of the whole clip stay on the host;
the device holds one group at a time.
"""

from collections.abc import Callable, Iterable, Sequence
import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float32
import numpy as np

from emv3_jax import sharding
from emv3_jax.diffusion import windows
from emv3_jax.diffusion.guidance import largest
from emv3_jax.diffusion.windows import Weights
from emv3_jax.models.network import Params
from emv3_jax.runtime import kept_programs
from emv3_jax.sampling import watching
from emv3_jax.sampling.cached_steps import Residuals, Runs, chosen, residual_sharding
from emv3_jax.sampling.denoise import Conditions, Denoiser
from emv3_jax.sampling.long_plan import LongPlan


class WindowDenoiser:
  """Compiled denoising of windows; any number of clips.

  Args:
    denoiser: of a single window.
    mode: of `diffusion.windows`, any but `chunked`; the weights are those of the plan's mode.
  """

  def __init__(self, denoiser: Denoiser, mode: str):
    self.denoiser, self.mode = denoiser, mode
    self.schedule = denoiser.guidance.schedule(denoiser.settings.steps, mode)
    identity = denoiser.identity and f"{denoiser.identity} {mode}"
    whole = NamedSharding(denoiser.transformer.mesh, PartitionSpec())
    self._group = kept_programs.jit(self._one_group, identity, keep_unused=True)
    self._kept_group = kept_programs.jit(self._one_kept_group, identity, keep_unused=True,
                                         out_shardings=(whole, residual_sharding(denoiser)))
    self._skipped_group = kept_programs.jit(self._one_skipped_group, identity, keep_unused=True)
    # A solver of other than elementwise steps cannot be used for long clips.
    self._step = kept_programs.jit(lambda state, i, velocity: denoiser.solver.step(state, i, velocity)[1], identity)

  def run(self, params: Params, noise: Float32[np.ndarray, "f H8 W8 c"], plan: LongPlan,
          conditions: Sequence[Conditions], progress: Callable[[Iterable[int]], Iterable[int]] = iter,
          runs: Runs | None = None) -> Float32[np.ndarray, "f H8 W8 c"]:
    """Denoises a clip.

    Args:
      params: parameters of the transformer.
      noise: of the whole clip, on the host.
      plan: its windows.
      conditions: of each window, b = 1, on the host.
      progress: wraps the step indices, e.g. with `tqdm`.
      runs: which steps run, see `cached_steps`; None runs all.
    """
    denoiser = self.denoiser
    length = plan.windows[0].length
    # Copies: the initial state of a solver may hold one array several times, and pieces are written in place.
    state = jax.tree.map(np.array, denoiser.solver.init(noise))
    groups = list(plan.groups())
    runs = None if runs is None or runs.all() else runs
    residuals = None if runs is None else Residuals(runs, on_host=len(groups) > 1)
    kept: dict[int, tuple[tuple, object]] = {}  # keys and values, where one group is the whole clip
    steps = progress(range(denoiser.settings.steps))
    for i in steps:
      step, weights = self.schedule[i], windows.weights(plan.windows, plan.mode, i)
      velocity = np.zeros_like(state.x)
      for number, group in enumerate(groups):
        placed = [plan.windows[index] for index in group]
        together = stacked([conditions[index] for index in group])
        skipped = runs is not None and not runs[i]
        if skipped:
          context = None
        elif number not in kept or kept[number][0] != step.context:
          context = denoiser.project(params, together, step)
          if len(groups) == 1:
            kept[number] = step.context, context
        else:
          context = kept[number][1]
        latents = np.stack([state.x[window.start:window.stop] for window in placed])
        inputs = (params, self._whole(latents), i, context, denoiser.tables.tree(), denoiser.rope_table(latents.shape),
                  self._whole(together.condition), self._whole(together.face_mask),
                  Weights(*map(np.stack, zip(*(weights[index] for index in group), strict=True))), step.branches)
        if residuals is None:
          parts = self._group(*inputs)
        elif skipped:
          parts = self._skipped_group(*inputs, *residuals.get(number))
        else:
          residuals.free(number)
          parts, residual = self._kept_group(*inputs)
          residuals.put(i, residual, step.branches, number)
          del residual
        del context, inputs
        for window, part in zip(placed[:len(set(group))], sharding.fetch(parts), strict=False):
          velocity[window.start:window.stop] += part
      for start in range(0, len(velocity), length):
        piece = slice(start, start + length)
        after = self._step(jax.tree.map(lambda x, piece=piece: x[piece], state), i, velocity[piece])
        jax.tree.map(lambda x, y, piece=piece: x.__setitem__(piece, y), state, after)
      watching.show(steps, state.x)
    return state.x

  def trace_group(self, params: Params, latents: jax.ShapeDtypeStruct, conditions: Conditions) -> jax.stages.Traced:
    """Traces the program of a group of windows, at a step of the most branches, without compiling it; only the
    shapes of the arguments are used. With a step cache it is that of a step that keeps residuals.

    Args:
      params: parameters of the transformer.
      latents: [b, L, H8, W8, c].
      conditions: of these b windows.
    """
    denoiser, branches = self.denoiser, largest(self.schedule)
    row = jax.ShapeDtypeStruct(latents.shape[:2], jnp.float32, sharding=latents.sharding)
    program = self._group if denoiser.settings.cache.kind in (None, "none") else self._kept_group
    return program.trace(params, latents, 0, denoiser.abstract_context(params, conditions, branches),
                         denoiser.tables.tree(), denoiser.rope_table(latents.shape), conditions.condition,
                         conditions.face_mask, Weights(row, row, row), branches)

  def _whole(self, array):
    return None if array is None else sharding.replicate(array, self.denoiser.transformer.mesh)

  def _one_group(self, params, latents, i, context, tables, table, condition, face_mask, weights, branches):
    row = {name: values[i] for name, values in tables.items()}
    velocities = self.denoiser.velocities(params, latents, row, context, table, condition, face_mask, branches)
    return self._contribution(row, velocities, weights, branches)

  def _one_kept_group(self, params, latents, i, context, tables, table, condition, face_mask, weights, branches):
    row = {name: values[i] for name, values in tables.items()}
    velocities, residual = self.denoiser.forward(
        "keep", params, latents, row, context, table, condition, face_mask, branches)
    return self._contribution(row, velocities, weights, branches), residual

  def _one_skipped_group(self, params, latents, i, context, tables, table, condition, face_mask, weights, branches,
                         residual, kept):
    row = {name: values[i] for name, values in tables.items()}
    residual = chosen(self.denoiser, residual, kept, branches, len(latents))
    velocities, _ = self.denoiser.forward("skip", params, latents, row, residual, None, condition, None, branches)
    return self._contribution(row, velocities, weights, branches)

  def _contribution(self, row, velocities, weights, branches):
    return windows.contribution(branches, self.mode, velocities, weights, row["text_scale"], row["audio_scale"])


def make_window_denoiser(denoiser: Denoiser, mode: str) -> WindowDenoiser:
  """Makes the denoiser of windows; equal arguments return the same object, which is compiled once."""
  return _made(denoiser, "blended" if mode == "released" else mode)  # which differ in their weights only


_made = functools.cache(WindowDenoiser)


def stacked(conditions: Sequence[Conditions]) -> Conditions:
  """Stacks the conditions of several windows along the batch."""
  joined = lambda name: np.concatenate([getattr(one, name) for one in conditions])
  return Conditions(
      text={name: np.concatenate([one.text[name] for one in conditions]) for name in conditions[0].text},
      image=joined("image"), audio=joined("audio"), condition=joined("condition"),
      face_mask=None if conditions[0].face_mask is None else joined("face_mask"))
