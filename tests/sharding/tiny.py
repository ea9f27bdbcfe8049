"""A transformer small enough to compile on many meshes, with inputs of awkward sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from emv3_jax import sharding
from emv3_jax.attention.local import attend_blocked
from emv3_jax.models import transformer
from emv3_jax.models.precision import FLOAT32
from emv3_jax.models.rope import time_sinusoid
from emv3_jax.sampling.denoise import Conditions, make_denoiser
from emv3_jax.sampling.settings import SamplingConfig
from emv3_jax.sharding import MeshConfig

CONFIG = transformer.TransformerConfig(
    dim=96, ffn_dim=192, num_heads=12, num_layers=3, freq_dim=32, text_dim=32, text_tokens=8,
    image_dim=32, image_tokens=5, audio_dim=16)
FLASH = dataclasses.replace(CONFIG, variant="flash", audio_layers=2, audio_hidden=32,
                            audio_tokens=3)

# Heads 12, token positions 24: what divides differs from mesh to mesh.
MESHES = (
    MeshConfig(context=8, attention="allgather"),
    MeshConfig(data=2, context=4),
    MeshConfig(fsdp=2, context=2, tensor=2),
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(context=2, tensor=4, attention="allgather"),
    MeshConfig(context=6),
    MeshConfig(data=3, context=2),
    MeshConfig(fsdp=8),
)
GRID = (3, 4, 6)  # latent frames, rows and columns of tokens: an odd number of frames
ATTEND = functools.partial(attend_blocked, block=16)  # no length here is a multiple of 16


on_mesh = functools.partial(sharding.on_mesh, local=ATTEND)


def name_of(config: MeshConfig) -> str:
  sizes = [f"{axis}{getattr(config, axis)}" for axis in sharding.AXES if getattr(config, axis) > 1]
  return "-".join([*sizes, config.attention])


def mesh_of(config: MeshConfig) -> jax.sharding.Mesh:
  """The mesh on the first of the eight devices."""
  return sharding.make_mesh(config, jax.devices()[:int(np.prod(config.sizes))])


@functools.cache
def params_of(config: transformer.TransformerConfig = CONFIG) -> dict:
  """Random parameters with nothing at zero, on the host."""
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32),
                      transformer.network(config).abstract)


def conditions_of(clips: int, config: transformer.TransformerConfig = CONFIG, moves: bool = False) -> Conditions:
  rng = np.random.default_rng(2)
  normal = lambda *shape: rng.normal(size=(clips, *shape)).astype(np.float32)
  f, h, w = GRID
  text = {name: normal(8, 32) for name in ("prompt", "negative")}
  text["prompt"][:, 5:] = 0  # a prompt shorter than the text tokens
  frames = 4 * (f - 1) + 1
  audio = normal(2 * frames, 16) if config.variant == "preview" else normal(frames, 5, 2, 16)
  return Conditions(text=text, image=normal(5, 32), audio=audio, condition=normal(f, 2 * h, 2 * w, 20),
                    face_mask=normal(h * w, *(f,) * moves))


def noise_of(clips: int) -> np.ndarray:
  f, h, w = GRID
  return np.random.default_rng(3).normal(size=(clips, f, 2 * h, 2 * w, 16)).astype(np.float32)


def loss_and_velocity(params, noise, conditions: dict, *, mesh=None, attention="ulysses",
                      precision=FLOAT32, remat="full"):
  """A training step's forward pass: mean of the squared velocity, and the velocity itself."""
  sharded = on_mesh(CONFIG, mesh, precision=precision, attention=attention, remat=remat)
  model = sharded.network.bind(params)
  context = model.embed_context(conditions["text"]["prompt"], conditions["image"],
                                conditions["audio"], sharded.execution)
  sinusoid = jnp.asarray(time_sinusoid(np.full(len(noise), 400.0), CONFIG.freq_dim))
  out = model(noise, conditions["condition"], sinusoid, context, rope=sharded.rope(noise.shape),
              face_mask=conditions["face_mask"], execution=sharded.execution)
  return jnp.mean(jnp.square(out)), out


def sampled(settings: SamplingConfig) -> np.ndarray:
  """Latents of one clip on one device, by the settings' solver and attention."""
  denoiser = make_denoiser(CONFIG, settings, mesh_of(MeshConfig()), precision=FLOAT32)
  return np.asarray(denoiser.run(params_of(), noise_of(1), conditions_of(1)))
