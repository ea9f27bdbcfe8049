"""The denoising loop of one window: guidance branches, solver steps, one compiled program.

Everything that depends on the step but not on the latents (time sinusoids, guidance scales,
modality weights) is tabulated on the host beforehand, so that one program serves all steps.
"""

from collections.abc import Callable, Iterable
import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32
import numpy as np

from emv3_jax import geometry, sharding
from emv3_jax.arrays import AnyArray
from emv3_jax.attention import backends
from emv3_jax.diffusion import guidance as guidance_lib
from emv3_jax.diffusion import negative_phases, solvers
from emv3_jax.diffusion.guidance import Branches, StepGuidance
from emv3_jax.errors import InputError
from emv3_jax.models import cross_attention, rope
from emv3_jax.models.network import Params
from emv3_jax.models.precision import Precision
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.runtime import kept_programs
from emv3_jax.sampling import watching
from emv3_jax.sampling.conditions import Conditions, StepTables
from emv3_jax.sampling.guidance_settings import guidance_of, warn_of_weights
from emv3_jax.sampling.settings import SamplingConfig

BLOCK_TOKENS = 8192  # tokens of a clip that a layer processes at a time


class Denoiser:
  """Compiled denoising for one network and one set of settings; any number of clips.

  Guidance branches are rows of the batch. Rows that do not divide over data x fsdp are padded, with a
  warning in the log. Latents are small: inputs and outputs are replicated on every device.

  Args:
    transformer: the network on its mesh, from `sharding.on_mesh`.
    settings: solver, guidance and how branches run.
    identity: what decides the transformer's part of the programs, as text, so that these are kept by the program
      cache; empty where that is not known.
  """

  def __init__(self, transformer: sharding.ShardedTransformer, settings: SamplingConfig, identity: str = ""):
    config = transformer.config
    self.transformer, self.settings = transformer, settings.with_defaults(config.variant)
    settings = self.settings
    self.solver = solvers.make_solver(
        settings.solver, settings.steps, settings.shift, settings.solver_shift)
    self.guidance = guidance_of(settings, config.variant)
    warn_of_weights(settings)
    self.schedule = self.guidance.schedule(settings.steps)
    temporal = rope.axis_pairs(config.head_dim)[0]
    if settings.riflex_k > temporal:
      raise InputError(f"sampling.riflex_k is {settings.riflex_k}; this network has {temporal} "
                       "temporal frequencies, counted from 1 (0 is off).")
    self.tables = self._tables()
    self._warned: set[int] = set()
    self.identity = identity and f"{identity} {self.settings}"
    whole = NamedSharding(transformer.mesh, PartitionSpec())
    self._project = kept_programs.jit(self._project_branches, self.identity)
    # Copies: the initial state of a solver may hold one array twice, which cannot be donated twice.
    self._start = kept_programs.jit(lambda noise: jax.tree.map(jnp.copy, self.solver.init(noise)), self.identity,
                                    out_shardings=whole)
    # All parameters are arguments, used or not: they are on the device anyway. The state that a step returns is
    # placed as the first one is, so that one program serves all steps.
    self._step = kept_programs.jit(self._one_step, self.identity, donate_argnums=1, keep_unused=True,
                                   out_shardings=whole)

  def _tables(self) -> StepTables:
    settings, taus = self.settings, np.asarray(self.solver.schedule.taus)
    allocation = cross_attention.ALLOCATIONS[settings.allocation]
    scales = self.guidance.scales(settings.steps)
    return StepTables(
        sinusoid=rope.time_sinusoid(taus, self.transformer.config.freq_dim),
        text_scale=scales.text, audio_scale=scales.audio,
        modality_weights=np.asarray(allocation.weights(taus), np.float32))

  def run(self, params: Params, noise: Float32[AnyArray, "b f H8 W8 c"], conditions: Conditions,
          progress: Callable[[Iterable[int]], Iterable[int]] = iter
          ) -> Float32[jax.Array, "b f H8 W8 c"]:
    """Denoises `noise` to latents.

    Args:
      params: parameters of the transformer.
      noise: initial noise, float32.
      conditions: of the same b clips.
      progress: wraps the step indices, e.g. with `tqdm`.
    """
    table = self.rope_table(noise.shape, conditions.frames)
    state = self.start(noise)
    context, projected = None, None
    steps = progress(range(self.settings.steps))
    for i in steps:
      step = self.schedule[i]
      if step.context != projected:
        context, projected = self.project(params, conditions, step), step.context
      state = self._step(params, state, i, context, self.tables.tree(), table,
                         conditions.condition, conditions.face_mask, step.branches)
      watching.show(steps, state.x)
    return state.x

  def start(self, noise: Float32[AnyArray, "b f H8 W8 c"]) -> Any:
    """Returns the solver's state before the first step."""
    return self._start(sharding.replicate(noise, self.transformer.mesh))

  def trace_step(self, params: Params, noise, conditions: Conditions, program: Any = None) -> jax.stages.Traced:
    """Traces the program of a step of the most branches without compiling it; only the shapes of the arguments are used.

    Args:
      params, noise, conditions: as in `run`; `jax.ShapeDtypeStruct`s, with shardings on a mesh.
      program: another program of a step that takes the same arguments.
    """
    state = jax.eval_shape(self.solver.init, noise)
    like_noise = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=noise.sharding)
    branches = guidance_lib.largest(self.schedule)
    return (program or self._step).trace(
        params, jax.tree.map(like_noise, state), 0, self.abstract_context(params, conditions, branches),
        self.tables.tree(), self.rope_table(noise.shape), conditions.condition, conditions.face_mask, branches)

  def abstract_context(self, params: Params, conditions: Conditions, branches: Branches):
    """Shapes and shardings of what `project` returns; only the shapes of the arguments are used."""
    context = jax.eval_shape(self._project_branches, params, *self._branch_shapes(conditions, branches))
    return jax.tree.map(self._with_sharding, context)

  def _with_sharding(self, keys: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Adds the sharding to keys or values of all layers; if branches run in turn, they are the first axis."""
    leading = int(self.settings.branches == "in_turn")
    where = self.transformer.context_sharding(keys.ndim, leading)
    return jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=where)

  def _branch_shapes(self, conditions: Conditions, branches: Branches):
    stacked = lambda x: jax.ShapeDtypeStruct((len(branches), *x.shape), x.dtype)
    return tuple(map(stacked, (conditions.text["prompt"], conditions.image, conditions.audio)))

  def rope_table(self, shape: tuple[int, ...], frames: AnyArray | None = None) -> rope.RopeTable | rope.PaddedTable:
    """Computes the RoPE table for latents of `shape` [b, f, H8, W8, 16], of which the first `frames` are the clip."""
    length = shape[1] if frames is None else int(frames)
    riflex = rope.Riflex(self.settings.riflex_k, length) if self.settings.riflex_k else None
    table = self.transformer.rope(shape, riflex)
    return table if frames is None else (*table, frames)

  def _token_blocks(self, shape: tuple[int, ...]) -> int:
    """Returns the number of token blocks that a layer processes in turn, for latents of `shape`."""
    shards = self.transformer.execution.length_shards
    f, positions = shape[1], math.prod(geometry.grid_of_latents(shape[2:4])) // shards
    wanted = self.settings.token_blocks or -(-positions * f // BLOCK_TOKENS)
    return min(n for n in range(1, positions + 1) if positions % n == 0 and n >= min(
        wanted, positions))

  def project(self, params: Params, conditions: Conditions, step: StepGuidance):
    """Computes the cross-attention keys and values of the branches of a step, of all layers.

    Args:
      params: of the transformer.
      conditions: of b clips.
      step: guidance of the step; `step.context` is all of it that counts.
    """
    return self._project(params, *self._branch_inputs(conditions, step), conditions.frames)

  def _branch_inputs(self, conditions: Conditions, step: StepGuidance):
    """Stacks text, image and audio of the branches of a step, each with leading axes [branches, b]."""
    branches, text = step.branches, {"prompt": conditions.text["prompt"]}
    if guidance_lib.UNGUIDED in branches:
      text["negative"] = conditions.text[negative_phases.name_of(step.negative)] * step.negative_scale
    audio = {"voice": conditions.audio, "null": np.zeros_like(conditions.audio)}
    rows = len(conditions.image) * (1 if self.settings.branches == "in_turn" else len(branches))
    if rows not in self._warned:  # not where the program is traced: one from the program cache is not
      self._warned.add(rows)
      self.transformer.warn_of_padding(rows)
    return (np.stack([text[branch.text] for branch in branches]),
            np.stack([conditions.image] * len(branches)),
            np.stack([audio[branch.audio] for branch in branches]))

  def _project_branches(self, params, text, image, audio, frames=None):
    """Computes the cross-attention keys and values of all layers; leading axis [branches] if in turn."""
    transformer, in_turn = self.transformer, self.settings.branches == "in_turn"
    model = transformer.network.bind(params)

    def project(*conditions):
      context = model.project(*transformer.pad(conditions), transformer.execution, frames)
      place = lambda keys: jax.lax.with_sharding_constraint(keys, transformer.context_sharding(keys.ndim))
      return jax.tree.map(place, context)

    conditions = text, image, audio
    if in_turn:
      return jax.lax.map(lambda conditions: project(*conditions), conditions)
    return project(*(x.reshape(-1, *x.shape[2:]) for x in conditions))

  def _one_step(self, params, state, i, context, tables, table, condition, face_mask, branches):
    """Computes the guided velocity at step i and makes one solver step."""
    row = {name: values[i] for name, values in tables.items()}
    velocities = self.velocities(params, state.x, row, context, table, condition, face_mask, branches)
    return self.advanced(state, i, row, velocities, branches)

  def advanced(self, state, i, row, velocities, branches: Branches):
    """Makes solver step i along the guided velocity; runs under jit.

    Args:
      state: of the solver.
      i: index of the step.
      row: the step's row of `tables`.
      velocities: of the branches `branches`.
    """
    guided = guidance_lib.mix(branches, velocities, row["text_scale"], row["audio_scale"])
    return self.solver.step(state, i, guided)[1]

  def velocities(self, params, latents, row, context, table, condition, face_mask, branches: Branches):
    """Computes the velocities [branches, b, f, H8, W8, c] of latents [b, f, H8, W8, c]; runs under jit.

    Args:
      params: of the transformer.
      latents: noisy latents.
      row: the step's row of `tables`.
      context: of `project`, for these b clips and branches.
      table: RoPE table of the latents.
      condition, face_mask: as in `Conditions`.
      branches: those that run.
    """
    return self.forward("run", params, latents, row, context, table, condition, face_mask, branches)[0]

  def forward(self, way: Literal["run", "keep", "skip"], params, latents, row, context, table, condition, face_mask,
              branches: Branches):
    """Computes the velocities as `velocities` does, and what step caches keep; runs under jit.

    Args:
      way: `run`; `keep` returns what the blocks add to the tokens; with `skip` the blocks do not run.
      params, latents, row, table, condition, face_mask, branches: of `velocities`; `skip` needs no table and no mask.
      context: of `project`; with `skip` what `keep` returned, for these branches.

    Returns:
      The velocities, and with `keep` the residuals: [rows, s, d], the branches' rows one after another and then
      padding, or [branches, rows, s, d] if branches run in turn; else None.
    """
    transformer = self.transformer
    model = transformer.network.bind(params)
    b, num = latents.shape[0], len(branches)
    execution = dataclasses.replace(
        transformer.execution, token_blocks=self._token_blocks(latents.shape))

    def velocity(context, copies):
      repeat = lambda x: None if x is None else jnp.tile(x, (copies,) + (1,) * (x.ndim - 1))
      same = lambda values: jnp.broadcast_to(values, (copies * b, *values.shape))
      *inputs, face, weights = transformer.pad((
          repeat(latents), repeat(condition), same(row["sinusoid"]), repeat(face_mask),
          same(row["modality_weights"])))
      options = {"rope": table, "face_mask": face, "modality_weights": weights,
                 "audio_gain": self.settings.audio_gain, "execution": execution}
      residual = None
      if way == "skip":
        out = model.from_residual(*inputs, context, execution)
      elif way == "keep":
        out, residual = model.with_residual(*inputs, context, **options)
      else:
        out = model(*inputs, context, **options)
      return transformer.unpad(out, copies * b), residual

    if self.settings.branches == "in_turn":
      return jax.lax.map(lambda context: velocity(context, 1), context)
    out, residual = velocity(context, num)
    return out.reshape(num, *latents.shape), residual


@functools.cache
def make_denoiser(config: TransformerConfig, settings: SamplingConfig, mesh: Mesh, *,
                  precision: Precision, attention: sharding.Attention = "ulysses",
                  platform: str | None = None) -> Denoiser:
  """Makes the denoiser on `mesh`; equal arguments return the same object, which is compiled once.

  Args:
    config: sizes of the transformer.
    settings: solver, guidance, branches and the backend of local attention.
    mesh: devices.
    precision: dtypes of the transformer.
    attention: mode of self-attention over the mesh axis `context`, `allgather` or `ulysses`.
    platform: cpu, gpu or tpu, if it is not the platform of this process.

  Raises:
    InputError: heads or parameters do not divide over the mesh, or a setting has an unknown value.
  """
  settings = settings.with_defaults(config.variant)
  local = backends.select(settings.attention, platform, with_keys=settings.length_buckets > 0)
  where = kept_programs.described(NamedSharding(mesh, PartitionSpec()))
  return Denoiser(sharding.on_mesh(config, mesh, precision=precision, attention=attention, local=local), settings,
                  f"{config} {precision} {attention} {local.name} {where}")
