"""A training run small enough for tests: config, batches, and programs compiled quickly."""

import dataclasses
import functools

import jax
import numpy as np

from emv3_jax import sharding
from emv3_jax.components.config import ModelConfig, PrecisionConfig
from emv3_jax.models.network import Params
from emv3_jax.models.precision import FLOAT32
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.sharding import MeshConfig
from emv3_jax.training.batch import Batch
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.settings import Config, LossConfig, TrainConfig
from emv3_jax.training.update.programs import TrainPrograms
from tests.compiler import QUICK

NETWORK = TransformerConfig(
    dim=48, ffn_dim=64, num_heads=4, num_layers=2, freq_dim=16, text_dim=16, text_tokens=6,
    image_dim=16, image_tokens=3, audio_dim=8)
GRID = (2, 4, 4)  # latent frames, rows and columns of tokens
EMPTY_TEXT = np.random.default_rng(9).normal(size=(2, 16)).astype(np.float32)


def config_of(*stages: Stage, network: TransformerConfig = NETWORK, **fields) -> Config:
  return dataclasses.replace(
      Config("tiny", seed=7, model=ModelConfig(transformer=network),
             precision=PrecisionConfig(transformer=FLOAT32),
             train=TrainConfig(remat="none", attention="xla"),
             loss=LossConfig(face=1.0, mouth=2.0), stages=stages or (Stage("sft", 100),)), **fields)


def programs_of(config: Config) -> TrainPrograms:
  """Programs on the first of the eight devices, as many as the config's mesh has."""
  devices = jax.devices()[:int(np.prod(config.mesh.sizes))]
  return TrainPrograms(config, sharding.make_mesh(config.mesh, devices), compiler_options=QUICK)


def params_of(network, seed: int = 1) -> Params:
  """Random parameters with nothing at zero, on the host."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: 0.2 * rng.normal(size=leaf.shape).astype(np.float32),
                      network.abstract)


def params_on(programs: TrainPrograms, seed: int = 1) -> Params:
  """`params_of` on the mesh of `programs`."""
  return sharding.shard_params(params_of(programs.network, seed), programs.mesh)


def batch_of(examples=range(4), seed: int = 2) -> Batch:
  """A batch whose rows are functions of the examples alone."""
  rows = [_row(example, seed) for example in examples]
  return Batch(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})


@functools.cache
def _row(example: int, seed: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng([seed, example])
  f, h, w = GRID
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  some = lambda *shape: (rng.random(shape) < 0.5).astype(np.float32)
  net = NETWORK
  return {
      "latents": normal(f, 2 * h, 2 * w, 16), "mask": some(f, 2 * h, 2 * w, 4),
      "masked_latents": normal(f, 2 * h, 2 * w, 16), "text": normal(net.text_tokens, net.text_dim),
      "image": normal(net.image_tokens, net.image_dim),
      "audio": normal(2 * (4 * (f - 1) + 1), net.audio_dim), "face_mask": some(h * w),
      "mouth_mask": some(f, 2 * h, 2 * w), "task": np.int32(example % 4),
      "example": np.uint32(example)}


def num_compiled(train_step) -> int:
  """Number of shapes that a step was compiled for."""
  return train_step._step._cache_size()


def run(config: Config, steps: int, *, batch=None, positives=None, params=None):
  """Metrics of every step, and the state after the last one, on the host."""
  programs = programs_of(config)
  params = params_on(programs) if params is None else sharding.shard_params(params, programs.mesh)
  state = programs.initial_state(params)
  metrics = []
  for step in range(steps):
    state = programs.begin_stage(state, step)
    program = programs.train_step_at(step)
    state, more = program(state, batch_of() if batch is None else batch, EMPTY_TEXT,
                          positives if program.needs_positives else None)
    metrics.append(jax.device_get(more))
  return metrics, jax.device_get(state)


def on_mesh(config: Config, **sizes) -> Config:
  return dataclasses.replace(config, mesh=MeshConfig(**sizes))
