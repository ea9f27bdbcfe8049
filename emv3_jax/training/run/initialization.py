"""The weights that a run starts from."""

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.errors import InputError
from emv3_jax.models.network import Network, Params, named_leaves, nested
from emv3_jax.sharding import param_shardings
from emv3_jax.training.run.origin import BASE, UNTRAINED, ModelFolder, RunCheckpoint, origin_of
from emv3_jax.training.settings import Config
from emv3_jax.training.update.state import is_audio

_SILENT = ("k_audio", "v_audio")


Origin = ModelFolder | RunCheckpoint


def named_origin(config: Config) -> Origin | None:
  """What the config's checkpoint is; None for random weights.

  Raises:
    InputError: no checkpoint is named, or it is of a run and cannot be used.
  """
  if not config.checkpoint:
    raise InputError("The config names no checkpoint; set checkpoint to a model folder, to the folder of a "
                     f"run, or to {UNTRAINED!r} to start from random weights.")
  return None if config.checkpoint == UNTRAINED else origin_of(config.checkpoint)


def describe_origin(origin: Origin | None, seed: int) -> dict:
  """JSON-able: where the first weights come from, with their digest; says so in the log.

  Raises:
    InputError: what was stored cannot be read.
  """
  if origin is None:
    return {"from": "random", "seed": seed}
  found = origin.describe()
  logging.info("The first weights are %s, digest %s; all else starts from zero: step, moments of the optimizer, "
               "schedule and order of the data.", origin, found["digest"][:12])
  return found


def initial_params(config: Config, network: Network, mesh: Mesh, origin: Origin | None = None) -> Params:
  """Parameters of the config's checkpoint on the mesh, or random ones.

  Those of a base model have no audio path; it is made anew, as `fresh_audio` does.

  Args:
    config: names the checkpoint.
    network: the transformer.
    mesh: where the parameters go.
    origin: `named_origin` of the config, where that is known already.

  Raises:
    InputError: no checkpoint is named; the checkpoint is missing or incomplete, or its transformer is not the config's.
  """
  origin = origin or named_origin(config)
  if origin is None:
    logging.warning("Training starts from random weights.")
    return _random(network, mesh, config.seed)
  if origin.variant != BASE and not config.fresh_audio:
    return origin.load(config, network.abstract, param_shardings(network.abstract, mesh))
  return _with_fresh_audio(config, network, mesh, origin)


def _random(network: Network, mesh: Mesh, seed: int) -> Params:
  make = jax.jit(network.init, out_shardings=param_shardings(network.abstract, mesh))
  return make(key_for(seed, Purpose.PARAMETERS))


def _with_fresh_audio(config: Config, network: Network, mesh: Mesh, origin: Origin) -> Params:
  """All but the audio path from the checkpoint, the audio path fresh and silent."""
  shardings = named_leaves(param_shardings(network.abstract, mesh))
  wanted = {name: leaf for name, leaf in named_leaves(network.abstract).items()
            if origin.variant != BASE or not is_audio(name)}
  loaded = named_leaves(origin.load(config, nested(wanted),
                                    nested({name: shardings[name] for name in wanted})))

  def audio(key):
    fresh = named_leaves(network.init(key))
    return {name: jnp.zeros_like(leaf) if _is_silent(name) else leaf
            for name, leaf in fresh.items() if is_audio(name)}

  make = jax.jit(audio, out_shardings={name: shardings[name] for name in filter(is_audio, shardings)})
  logging.info("The audio path starts anew, silent.")
  return nested(loaded | make(key_for(config.seed, Purpose.PARAMETERS)))


def _is_silent(name: str) -> bool:
  """Keys and values of the audio expert: with zeros it adds nothing, and values learn at once."""
  return any(part in _SILENT for part in name.split("."))
