"""Programs of training that can be planned, traced for devices that need not be available."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from emv3_jax import variants
from emv3_jax.attention.local import Attend, attend_xla
from emv3_jax.models import transformer
from emv3_jax.models.execution import ExecutionConfig
from emv3_jax.models.rope import rope_table
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.plan import flops
from emv3_jax.plan.programs import Deployment, Program, Window
from emv3_jax.tasks import face_masks
from emv3_jax.training.batch import Batch
from emv3_jax.training.curriculum import Kind, Stage
from emv3_jax.training.settings import Config, ScheduleConfig
from emv3_jax.training.update.programs import TrainPrograms

DEFAULT_WINDOW = Window(frames=113, height=480, width=832)  # size with which the released model was trained


def largest_window(config: Config) -> Window:
  """Returns the window with the most tokens in the config's dataset; `DEFAULT_WINDOW` without a dataset.

  Raises:
    InputError: the dataset cannot be read.
  """
  from emv3_jax.data import index as index_lib  # here: it needs array_record

  if not config.data or not (pathlib.Path(config.data) / index_lib.INDEX).exists():
    return DEFAULT_WINDOW
  windows = (Window(bucket.frames, bucket.height, bucket.width)
             for bucket in index_lib.read_index(config.data).buckets)
  return max(windows, key=lambda window: window.positions * window.latents[0])


def num_rows(config: Config) -> int:
  """Returns the rows of the microbatch that a training step runs at once."""
  return config.train.batch // config.train.accumulate


def train_step(config: Config, window: Window, deployment: Deployment) -> Program:
  """Traces a step of flow matching: loss, gradients, optimizer and moving average."""
  return _step(config, window, deployment, "sft")


def ndpo_step(config: Config, window: Window, deployment: Deployment) -> Program:
  """Traces a step of negative DPO with its frozen reference, likewise."""
  return _step(config, window, deployment, "ndpo")


def _step(config: Config, window: Window, deployment: Deployment, kind: Kind) -> Program:
  whole = any(stage.train == "all" for stage in config.all_stages())
  stage = Stage("plan", steps=1, kind=kind, train="all" if whole else "audio")
  config = dataclasses.replace(config, mesh=deployment.config, schedule=ScheduleConfig(),
                               stages=(stage,))
  programs = TrainPrograms(config, deployment.mesh, deployment.platform)
  program, state = programs.train_step_at(0), programs.abstract_state(0)
  net, rows = config.model.transformer, config.train.batch
  batch = _batch(net, rows, window, programs.batch_sharding, config.loss.face_mask)
  empty_text = deployment.whole((1, net.text_dim))
  traced = program.trace(state, batch, empty_text, batch if program.needs_positives else None)

  forward = forward_flops(net, rows, window)
  # The gradient of a product takes two products. The reference is run forward only.
  learnt = 3 * forward * (1 + program.needs_positives)
  work = learnt + forward * (kind == "ndpo" and config.ndpo.reading == "reference")
  recomputed = (1 + program.needs_positives) * (recomputed_flops(config, window, forward) or 0)
  precision = config.precision.transformer
  return Program(traced, state["params"], work, (work + recomputed) / work,
                 gathers_narrow=precision.compute_dtype.itemsize < precision.param_dtype.itemsize)


def _batch(net: TransformerConfig, rows: int, window: Window,
           sharding: NamedSharding | None, face_mask: str) -> Batch:
  """Returns the shapes of a training batch."""
  f, height8, width8 = window.latents
  audio = variants.of(net.variant).input_shape(net, window.frames)
  face = (window.positions, *(f,) * (face_mask == face_masks.MOVING))
  array = lambda *shape, dtype=jnp.float32: jnp.zeros((rows, *shape), dtype)
  shapes = jax.eval_shape(lambda: Batch(
      latents=array(f, height8, width8, net.out_channels),
      mask=array(f, height8, width8, net.in_channels - 2 * net.out_channels),
      masked_latents=array(f, height8, width8, net.out_channels),
      text=array(net.text_tokens, net.text_dim), image=array(net.image_tokens, net.image_dim),
      audio=array(*audio), face_mask=array(*face),
      mouth_mask=array(f, height8, width8), task=array(dtype=jnp.int32),
      example=array(dtype=jnp.uint32)))
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def recomputed_flops(config: Config, window: Window, forward: int) -> int | None:
  """Counts what the backward pass recomputes of a forward pass, of `forward` operations, of a batch.

  Returns:
    None where a policy of the compiler decides it (`dots_saveable` and its like).
  """
  if config.train.remat == "attention":
    return forward_flops(config.model.transformer, config.train.batch, window, lambda q, k, v: q)
  return {"none": 0, "full": forward}.get(config.train.remat)


def forward_flops(net: TransformerConfig, rows: int, window: Window,
                  attend: Attend = attend_xla) -> int:
  """Counts the operations of the forward pass of a batch of `rows` clips, with `attend` for self-attention."""
  network = transformer.network(net)
  table = rope_table((window.latents[0], *window.grid), net.head_dim)

  def run(params, batch):
    model = network.bind(params)
    context = model.embed_context(batch.text, batch.image, batch.audio)
    condition = jnp.concatenate([batch.mask, batch.masked_latents], axis=-1)
    sinusoid = jnp.zeros((rows, net.freq_dim))
    return model(batch.latents, condition, sinusoid, context, rope=table,
                 execution=ExecutionConfig(attend=attend, cross_attend=attend_xla))

  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
                       _batch(net, rows, window, None, face_masks.RELEASED))
  return flops.count(jax.jit(run).trace(network.abstract, batch))
