"""The compiled programs of the encoders and the VAE on a mesh, the same for a run and for `--plan`.

Programs are shared by all models of a process whose configs agree, so that each compiles once.
"""

import functools
import math

from absl import logging
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from emv3_jax import sharding
from emv3_jax.components.config import COMPONENTS, ModelConfig, PrecisionConfig
from emv3_jax.errors import InputError
from emv3_jax.io.pixels import to_uint8
from emv3_jax.models import clip, transformer, umt5, vae, wav2vec2, wav2vec2_pieces
from emv3_jax.models.network import Network, Params
from emv3_jax.models.precision import Precision
from emv3_jax.models.umt5 import UMT5Config
from emv3_jax.models.wav2vec2 import Wav2Vec2Config
from emv3_jax.runtime import kept_programs, kept_shapes, start_up
from emv3_jax.sharding import MeshConfig

_NETWORKS = dict(zip(COMPONENTS, (transformer, vae, umt5, clip, wav2vec2), strict=True))
_identities: dict[Network, str] = {}  # network -> what it was made from


@functools.cache
def mesh_of(config: MeshConfig) -> Mesh:
  """The mesh of a run: all devices, or the first one where every axis is 1.

  Raises:
    InputError: the mesh takes another number of devices than there are, or JAX finds no device.
  """
  try:
    with start_up.part("devices"):
      devices = jax.devices()
  except (RuntimeError, AssertionError) as error:  # the latter where no plugin serves a platform
    # JAX adds its options to the class when it is imported.
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    raise InputError(f"JAX finds no device of JAX_PLATFORMS={platforms or ''}: it is not there, or "
                     "the JAX for it is not installed; leave JAX_PLATFORMS out to take what is "
                     "there.") from error
  if math.prod(config.sizes) > 1 or jax.process_count() > 1:
    return sharding.make_mesh(config, devices)
  if len(devices) > 1:
    logging.info("Running on 1 of %d devices; --config.mesh.data, .fsdp, .context and .tensor "
                 "split the work over all.", len(devices))
  return sharding.make_mesh(config, jax.local_devices()[:1])


def network(networks: ModelConfig, precision: PrecisionConfig, name: str) -> Network:
  """The network of the component `name`."""
  return _network(name, getattr(networks, name), getattr(precision, name))


@functools.cache
def _network(name: str, config, precision) -> Network:
  made = _NETWORKS[name].network(config, precision)
  _identities[made] = repr((name, config, precision))
  return kept_shapes.recall(made, _identities[made])


@functools.cache
def shardings(net: Network, name: str, mesh: Mesh) -> Params:
  """Shardings of the parameters of a component, as a tree like `net.abstract`."""
  return sharding.param_shardings(net.abstract, mesh, name)


@functools.cache
def encoder(net: Network, mesh: Mesh, static: tuple = ()) -> jax.stages.Wrapped:
  """A jitted `(params, *arrays) -> states` of an encoder; the states are whole on every device.

  Args:
    net: umT5, CLIP or wav2vec 2.0.
    mesh: where it runs.
    static: keyword arguments of its call, as sorted pairs.
  """
  def run(params, *arrays):
    return net.bind(params)(*arrays, **dict(static))

  return kept_programs.jit(run, _identity(net, mesh, static), out_shardings=_whole(mesh))


@functools.cache
def audio_pieces(net: Network, config: Wav2Vec2Config, precision: Precision, mesh: Mesh
                 ) -> wav2vec2_pieces.Wav2Vec2Pieces:
  """The programs of wav2vec 2.0 over the pieces of a long sound; states are whole on every device."""
  jit = functools.partial(kept_programs.jit, identity=_identity(net, mesh), out_shardings=_whole(mesh))
  return wav2vec2_pieces.Wav2Vec2Pieces(net, config, precision, jit)


@functools.cache
def text_layers(net: Network, config: UMT5Config, precision: Precision, mesh: Mesh) -> umt5.StreamPrograms:
  """The programs of umT5 for one layer at a time, on one device."""
  return umt5.StreamPrograms(config, precision, functools.partial(kept_programs.jit, identity=_identity(net, mesh)))


@functools.cache
def vae_encode(net: Network, mesh: Mesh, size8: tuple[int, int], clips: int = 1) -> jax.stages.Wrapped:
  """A jitted `(params, video) -> latents`; the video comes split as `sharding.picture_sharding`
  says, the latents are whole on every device.

  Args:
    net: the VAE.
    mesh: where it runs.
    size8: (H / 8, W / 8).
    clips: number of clips at a time.
  """
  constrain = sharding.picture_constraint(mesh, clips, size8)

  def run(params, video):
    return net.bind(params).encode(video, constrain=constrain)

  # The decoder's parameters lie there too.
  return kept_programs.jit(run, _identity(net, mesh, clips, size8), keep_unused=True, out_shardings=_whole(mesh))


@functools.cache
def vae_decode(net: Network, mesh: Mesh, size8: tuple[int, int], clips: int = 1) -> jax.stages.Wrapped:
  """A jitted `(params, latents) -> uint8 frames`; the latents come whole, the frames are split.

  Args: as `vae_encode`.
  """
  constrain = sharding.picture_constraint(mesh, clips, size8)

  def run(params, latents):
    return net.bind(params).decode(latents, postprocess=to_uint8, constrain=constrain)

  return kept_programs.jit(run, _identity(net, mesh, clips, size8), keep_unused=True,
                           out_shardings=sharding.picture_sharding(mesh, clips, size8))


@functools.cache
def vae_decode_group(net: Network, mesh: Mesh, size8: tuple[int, int], clips: int = 1) -> jax.stages.Wrapped:
  """A jitted `(params, latents, cached) -> (uint8 frames, cached)` of `VAE.decode_group`.

  Frames and cached frames are split as `sharding.picture_sharding` says; the cached ones that come
  in are donated. It compiles for the first group, where they are None, and for a later one.

  Args: as `vae_encode`.
  """
  constrain = sharding.picture_constraint(mesh, clips, size8)

  def run(params, latents, cached):
    return net.bind(params).decode_group(
        latents, cached, postprocess=to_uint8, constrain=constrain)

  return kept_programs.jit(run, _identity(net, mesh, clips, size8), keep_unused=True, donate_argnums=2,
                           out_shardings=sharding.picture_sharding(mesh, clips, size8))


def _identity(net: Network, mesh: Mesh, *settings) -> str:
  """What decides a program of `network`; empty for a network that is made elsewhere."""
  made = _identities.get(net, "")
  return made and f"{made} {kept_programs.described(_whole(mesh))} {settings}"


def _whole(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())
