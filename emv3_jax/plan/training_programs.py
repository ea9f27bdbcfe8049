"""The training programs that can be planned, traced for devices that need not be there."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from emv3_jax.attention.local import Attend, attend_xla
from emv3_jax.data import index as index_lib
from emv3_jax.models import transformer
from emv3_jax.models.execution import ExecutionConfig
from emv3_jax.models.rope import rope_table
from emv3_jax.plan import flops
from emv3_jax.plan.programs import Deployment, Program, Window
from emv3_jax.training.curriculum import Kind, Stage
from emv3_jax.training.objectives.forward import Batch
from emv3_jax.training.settings import Config
from emv3_jax.training.update.programs import Programs

DEFAULT_WINDOW = Window(frames=113, height=480, width=832)  # of the released model's own training


def largest_window(config: Config) -> Window:
  """The size in the config's dataset with the most tokens; without a dataset 113 x 480 x 832.

  Raises:
    InputError: a dataset that cannot be read.
  """
  if not config.data or not (pathlib.Path(config.data) / index_lib.INDEX).exists():
    return DEFAULT_WINDOW
  windows = (Window(bucket.frames, bucket.height, bucket.width)
             for bucket in index_lib.read_index(config.data).buckets)
  return max(windows, key=lambda window: window.positions * window.latents[0])


def num_rows(config: Config) -> int:
  """Rows of the batch that a training step runs at once."""
  return config.train.batch // config.train.accumulate


def train_step(config: Config, window: Window, deployment: Deployment) -> Program:
  """Flow matching: loss, gradients, optimiser and moving average."""
  return _step(config, window, deployment, "sft")


def ndpo_step(config: Config, window: Window, deployment: Deployment) -> Program:
  """Negative DPO with its frozen reference, likewise."""
  return _step(config, window, deployment, "ndpo")


def _step(config: Config, window: Window, deployment: Deployment, kind: Kind) -> Program:
  whole = any(stage.train == "all" for stage in config.all_stages())
  stage = Stage("plan", steps=1, kind=kind, train="all" if whole else "audio")
  config = dataclasses.replace(config, mesh=deployment.config, stages=(stage,))
  programs = Programs(config, deployment.mesh, deployment.platform)
  program, state = programs.program_at(0), programs.abstract_state(0)
  batch = _batch(config, window, programs.batch_sharding)
  empty_text = deployment.whole((1, config.model.transformer.text_dim))
  traced = program.trace(state, batch, empty_text, batch if program.needs_positives else None)

  forward = forward_flops(config, window)
  # The gradient of a product is two products. The reference is run forward only.
  learnt = 3 * forward * (1 + program.needs_positives)
  work = learnt + forward * (kind == "ndpo" and config.ndpo.reading == "reference")
  again = (learnt // 3 if config.train.remat == "full" else
           learnt // (3 * forward) * forward_flops(config, window, lambda q, k, v: q)
           if config.train.remat == "attention" else 0)
  precision = config.precision.transformer
  return Program(traced, state["params"], work, (work + again) / work,
                 gathers_narrow=precision.compute_dtype.itemsize < precision.param_dtype.itemsize)


def _batch(config: Config, window: Window, sharding: NamedSharding | None) -> Batch:
  """Shapes of what a step learns from; see `training.objectives.forward`."""
  net = config.model.transformer
  f, height8, width8 = window.latents
  audio = ((2 * window.frames, net.audio_dim) if net.variant == "preview" else
           (window.frames, 5, net.audio_layers, net.audio_dim))
  def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((config.train.batch, *shape), dtype, sharding=sharding)

  return {
      "latents": array(f, height8, width8, net.out_channels),
      "mask": array(f, height8, width8, net.in_channels - 2 * net.out_channels),
      "masked_latents": array(f, height8, width8, net.out_channels),
      "text": array(net.text_tokens, net.text_dim),
      "image": array(net.image_tokens, net.image_dim), "audio": array(*audio),
      "face_mask": array(window.positions), "mouth_mask": array(f, height8, width8),
      "task": array(dtype=jnp.int32), "example": array(dtype=jnp.uint32)}


def forward_flops(config: Config, window: Window, attend: Attend = attend_xla) -> int:
  """Operations of the forward pass of a batch, with `attend` for self-attention."""
  net = config.model.transformer
  network = transformer.network(net, config.precision.transformer)
  table = rope_table((window.latents[0], *window.grid), net.head_dim)

  def run(params, batch):
    model = network.bind(params)
    context = model.embed_context(batch["text"], batch["image"], batch["audio"])
    condition = jnp.concatenate([batch["mask"], batch["masked_latents"]], axis=-1)
    sinusoid = jnp.zeros((config.train.batch, net.freq_dim))
    return model(batch["latents"], condition, sinusoid, context, rope=table,
                 execution=ExecutionConfig(attend=attend, cross_attend=attend_xla))

  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
                       _batch(config, window, None))
  return flops.count(jax.jit(run).trace(network.abstract, batch))
