"""The denoising loop of one window: guidance branches, solver steps, one compiled program.

Everything that depends on the step but not on the latents (time sinusoids, guidance scales,
modality weights) is tabulated on the host beforehand, so that one program serves all steps.
"""

from collections.abc import Callable, Iterable
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from emv3_jax import geometry, variants
from emv3_jax.attention import backends, local
from emv3_jax.diffusion import guidance as guidance_lib
from emv3_jax.diffusion import solvers
from emv3_jax.errors import InputError
from emv3_jax.models import cross_attention, rope, transformer
from emv3_jax.models.network import Network, Params
from emv3_jax.models.token_layers import identity
from emv3_jax.sampling.settings import Config, SamplingConfig
from emv3_jax.sharding import ShardedTransformer

BLOCK_TOKENS = 8192  # tokens of a clip that the maps of a layer work on at a time


@dataclasses.dataclass(frozen=True)
class Conditions:
  """What a window is denoised under; b clips of one shape.

  Attributes:
    text: dict `prompt` and, where a branch needs it, `negative`: float32 [b, text_tokens, text_dim],
      umT5 states cut to their length and padded with zeros.
    image: float32 [b, image_tokens, image_dim] CLIP states; zeros without a picture.
    audio: float32 [b, tokens, 768] (preview) or [b, F, 5, layers, 768] (flash).
    known: float32 [b, f, H8, W8, 20] mask latents and masked-video latents.
    face_mask: float32 [b, h*w], or None where audio acts everywhere.
  """

  text: dict[str, np.ndarray]
  image: np.ndarray
  audio: np.ndarray
  known: np.ndarray
  face_mask: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class StepTables:
  """Per-step values, computed on the host: all float32 with a leading [steps] axis."""

  sinusoid: np.ndarray  # [steps, freq_dim]
  text_scale: np.ndarray  # [steps]
  audio_scale: np.ndarray  # [steps]
  modality_weights: np.ndarray  # [steps, 3]

  def tree(self) -> dict[str, np.ndarray]:
    return dataclasses.asdict(self)


class Denoiser:
  """Compiled denoising for one network and one set of settings; any number of clips.

  Args:
    network: the transformer, as `transformer.network` gives it.
    config: its configuration.
    settings: solver, guidance and branches.
    attend: local attention, to video tokens and to text and image.
    constrain: activation sharding, identity on one device.
    length_shards: number of devices that the token axis is split over.
  """

  def __init__(self, network: Network, config: transformer.TransformerConfig,
               settings: SamplingConfig, *, attend: Callable = local.attend_blocked,
               constrain: Callable = identity, length_shards: int = 1):
    self.config, self.settings = config, settings.completed(config.variant)
    settings = self.settings
    self.solver = solvers.make_solver(
        settings.solver, settings.steps, settings.shift, settings.solver_shift)
    self.guidance = guidance_lib.Guidance(
        mode=variants.of(config.variant).guidance,
        text_scale=settings.text_scale, audio_scale=settings.audio_scale,
        dynamic_text=settings.dynamic_text, dynamic_audio=settings.dynamic_audio,
        neg_scale=settings.neg_scale, neg_steps=settings.neg_steps)
    temporal = rope.axis_pairs(config.head_dim)[0]
    if settings.riflex_k > temporal:
      raise InputError(f"sampling.riflex_k is {settings.riflex_k}; this network has {temporal} "
                       "temporal frequencies, counted from 1 (0 is off).")
    self.tables = self._tables()
    self._network, self._attend, self._constrain = network, attend, constrain
    self._length_shards = length_shards
    self._project = jax.jit(self._project_branches)
    # All parameters are arguments, used or not: they lie on the device all the same.
    self._step = jax.jit(self._one_step, donate_argnums=1, keep_unused=True)

  def _tables(self) -> StepTables:
    settings, taus = self.settings, np.asarray(self.solver.schedule.taus)
    allocation = cross_attention.ALLOCATIONS[settings.allocation]
    scales = self.guidance.scales(settings.steps)
    return StepTables(
        sinusoid=rope.time_sinusoid(taus, self.config.freq_dim),
        text_scale=scales.text, audio_scale=scales.audio,
        modality_weights=np.asarray(allocation.weights(taus), np.float32))

  def run(self, params: Params, noise: np.ndarray, conditions: Conditions,
          progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> jax.Array:
    """Denoises `noise` [b, f, H8, W8, 16] to latents of the same shape, float32.

    `progress` wraps the step indices, e.g. with `tqdm`.
    """
    table = self._rope_table(noise.shape)
    negative_scales = self.guidance.scales(self.settings.steps).negative
    # Copies: a solver may start with one array in several places, which cannot be donated twice.
    state = jax.tree.map(jnp.copy, self.solver.init(noise))
    context, scale_now = None, None
    for i in progress(range(self.settings.steps)):
      if context is None or negative_scales[i] != scale_now:
        scale_now = negative_scales[i]
        context = self._project(params, *self._branch_inputs(conditions, scale_now))
      state = self._step(params, state, i, context, self.tables.tree(), table,
                         conditions.known, conditions.face_mask)
    return state.x

  def trace_step(self, params: Params, noise, conditions: Conditions, *,
                 place: Callable = lambda context: context) -> jax.stages.Traced:
    """The program of a step, not compiled, for arguments of which only the shapes are needed.

    Args:
      params, noise, conditions: as in `run`; `jax.ShapeDtypeStruct`s, with shardings on a mesh.
      place: from the shapes of the context (leading axis [branches] if in turn) to shapes with
        shardings.
    """
    state, context = jax.eval_shape(
        lambda noise, *inputs: (self.solver.init(noise), self._project_branches(*inputs)),
        noise, params, *self._branch_shapes(conditions))
    like_noise = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=noise.sharding)
    return self._step.trace(params, jax.tree.map(like_noise, state), 0, place(context),
                            self.tables.tree(), self._rope_table(noise.shape), conditions.known,
                            conditions.face_mask)

  def _branch_shapes(self, conditions: Conditions):
    stacked = lambda x: jax.ShapeDtypeStruct((len(self.guidance.branches), *x.shape), x.dtype)
    return tuple(map(stacked, (conditions.text["prompt"], conditions.image, conditions.audio)))

  def _rope_table(self, shape: tuple[int, ...]) -> rope.RopeTable:
    """Angles for latents of `shape` [b, f, H8, W8, 16]."""
    f, (h, w) = shape[1], geometry.grid_of_latents(shape[2:4])
    riflex = rope.Riflex(self.settings.riflex_k, f) if self.settings.riflex_k else None
    return rope.rope_table((f, h, w), self.config.head_dim, riflex)

  def _token_blocks(self, shape: tuple[int, ...]) -> int:
    """Blocks of tokens that a layer works on in turn, for latents of `shape`."""
    f, grid = shape[1], geometry.grid_of_latents(shape[2:4])
    positions = math.prod(grid) // self._length_shards
    wanted = self.settings.token_blocks or -(-positions * f // BLOCK_TOKENS)
    return min(n for n in range(1, positions + 1) if positions % n == 0 and n >= min(
        wanted, positions))

  def _branch_inputs(self, conditions: Conditions, negative_scale: np.float32):
    """Text, image and audio of every branch, each with leading axes [branches, b]."""
    text = {name: states * negative_scale if name == "negative" else states
            for name, states in conditions.text.items()}
    audio = {"voice": conditions.audio, "null": np.zeros_like(conditions.audio)}
    branches = self.guidance.branches
    return (np.stack([text[branch.text] for branch in branches]),
            np.stack([conditions.image] * len(branches)),
            np.stack([audio[branch.audio] for branch in branches]))

  def _project_branches(self, params, text, image, audio):
    """Cross-attention keys and values of all layers, leading axis [branches]."""
    project = self._network.bind(params).project
    if self.settings.branches == "in_turn":
      return jax.lax.map(lambda inputs: project(*inputs), (text, image, audio))
    return project(*(x.reshape(-1, *x.shape[2:]) for x in (text, image, audio)))

  def _one_step(self, params, state, i, context, tables, table, known, face_mask):
    """Guided velocity at step i, then one solver step."""
    model = self._network.bind(params)
    row = {name: values[i] for name, values in tables.items()}
    latents = state.x
    b, num = latents.shape[0], len(self.guidance.branches)

    def velocity(context, copies):
      repeat = lambda x: None if x is None else jnp.tile(x, (copies,) + (1,) * (x.ndim - 1))
      return model(
          repeat(latents), repeat(known), jnp.broadcast_to(row["sinusoid"],
                                                           (copies * b, self.config.freq_dim)),
          context, rope=table, face_mask=repeat(face_mask), audio_gain=self.settings.audio_gain,
          modality_weights=jnp.broadcast_to(row["modality_weights"], (copies * b, 3)),
          attend=self._attend, cross_attend=self._attend, constrain=self._constrain,
          token_blocks=self._token_blocks(latents.shape))

    if self.settings.branches == "in_turn":
      velocities = jax.lax.map(lambda context: velocity(context, 1), context)
    else:
      velocities = velocity(context, num).reshape(num, *latents.shape)
    guided = self.guidance.mix(velocities, row["text_scale"], row["audio_scale"])
    return self.solver.step(state, i, guided)[1]


def make_denoiser(config: Config, mesh: Mesh, platform: str | None = None) -> Denoiser:
  """Denoising on `mesh`, made once for all configs that agree.

  Args:
    config: of the network, its precision, settings and the attention over the mesh.
    mesh: where it runs.
    platform: cpu, gpu or tpu, if that is not where this process runs.

  Raises:
    InputError: heads or parameters do not divide over the mesh, or settings do not exist.
  """
  return _make_denoiser(config.model.transformer, config.precision.transformer, config.settings,
                        mesh, config.mesh.attention, platform)


@functools.cache
def _make_denoiser(net, precision, settings, mesh: Mesh, attention: str,
                   platform: str | None) -> Denoiser:
  sharded = ShardedTransformer(net, mesh, precision=precision, attention=attention)
  return Denoiser(sharded, net, settings, length_shards=mesh.shape["context"],
                  attend=backends.select(settings.attention, platform))
