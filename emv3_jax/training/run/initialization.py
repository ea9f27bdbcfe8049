"""The weights that a run starts from."""

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import load_component, read_model_card
from emv3_jax.models.network import Network, Params, named_leaves, nested
from emv3_jax.sharding import param_shardings
from emv3_jax.training.settings import Config
from emv3_jax.training.update.state import is_audio

UNTRAINED = "untrained"
BASE = "base"  # variant of a folder whose transformer has no audio path
_SILENT = ("k_audio", "v_audio")


def initial_params(config: Config, network: Network, mesh: Mesh) -> Params:
  """Parameters of the config's checkpoint on the mesh, or random ones.

  Those of a base model have no audio path; it is made anew, as `fresh_audio` does.

  Args:
    config: names the checkpoint.
    network: the transformer.
    mesh: where the parameters go.

  Raises:
    InputError: no checkpoint is named, it is missing or incomplete, or its transformer is not
      the config's.
  """
  if not config.checkpoint:
    raise InputError("The config names no checkpoint; set checkpoint to a model folder, or to "
                     f"{UNTRAINED!r} to start from random weights.")
  if config.checkpoint == UNTRAINED:
    logging.warning("Training starts from random weights.")
    return _random(network, mesh, config.seed)
  card = read_model_card(config.checkpoint)
  variant = config.model.transformer.variant
  if card.variant != BASE and not config.fresh_audio:
    return load_component(config.checkpoint, "transformer", network.abstract, variant=variant,
                          shardings=param_shardings(network.abstract, mesh))
  return _with_fresh_audio(config, network, mesh, card.variant)


def _random(network: Network, mesh: Mesh, seed: int) -> Params:
  make = jax.jit(network.init, out_shardings=param_shardings(network.abstract, mesh))
  return make(key_for(seed, Purpose.PARAMETERS))


def _with_fresh_audio(config: Config, network: Network, mesh: Mesh, variant: str | None) -> Params:
  """All but the audio path from the checkpoint, the audio path fresh and silent."""
  shardings = named_leaves(param_shardings(network.abstract, mesh))
  wanted = {name: leaf for name, leaf in named_leaves(network.abstract).items()
            if variant != BASE or not is_audio(name)}
  loaded = named_leaves(load_component(
      config.checkpoint, "transformer", nested(wanted), variant=variant,
      shardings=nested({name: shardings[name] for name in wanted})))

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
