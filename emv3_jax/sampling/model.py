"""A model as sampling sees it: a folder of parts that are loaded, used and freed in turn."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import gc
import math
import pathlib

from absl import logging
import jax
import numpy as np

from emv3_jax import attention_backends, sharding
from emv3_jax import config as config_lib
from emv3_jax.errors import InputError
from emv3_jax.io import checkpoints
from emv3_jax.io.pixels import to_uint8
from emv3_jax.model_config import COMPONENTS
from emv3_jax.models import clip, transformer, umt5, vae, wav2vec2
from emv3_jax.models.network import Network, Params
from emv3_jax.sampling.denoise import Denoiser
from emv3_jax.sampling.settings import RELEASED, Config
from emv3_jax.sharding import MeshConfig, ShardedTransformer, make_mesh

UNTRAINED = "untrained"
_PROGRAMS = {  # program -> component, method
    "text_encoder": ("text_encoder", "__call__"), "image_encoder": ("image_encoder", "__call__"),
    "audio_encoder": ("audio_encoder", "__call__"), "vae_encode": ("vae", "encode"),
    "vae_decode": ("vae", "decode")}
_NETWORKS = {"transformer": transformer, "vae": vae, "text_encoder": umt5, "image_encoder": clip,
             "audio_encoder": wav2vec2}


# Programs are shared by all models of a process whose configs agree, so that each compiles once.


@functools.cache
def _network(name: str, config, precision) -> Network:
  return _NETWORKS[name].network(config, precision)


@functools.cache
def _compiled(network: Network, method: str, static: tuple) -> Callable:
  def run(params, *arrays):
    return getattr(network.bind(params), method)(*arrays, **dict(static))

  return jax.jit(run)


@functools.cache
def _sharded(config, precision, mesh_config: MeshConfig) -> ShardedTransformer:
  return ShardedTransformer(config, make_mesh(mesh_config), precision=precision,
                            attention=mesh_config.attention)


@functools.cache
def _denoiser(network: Network | ShardedTransformer, config, settings, context: int) -> Denoiser:
  return Denoiser(network, config, settings, length_shards=context,
                  attend=attention_backends.select(settings.attention))


class Model:
  """Networks of one config and where their parameters come from.

  Args:
    config: the sampling config.
    folder: model folder as `python -m convert` writes it; None for untrained random parameters.

  Raises:
    InputError: the folder's networks are not those of the config (names the fields that differ).
  """

  def __init__(self, config: Config, folder: pathlib.Path | None):
    self.config, self.folder = config, folder
    self.card = None
    self._kept: dict[str, Params] = {}
    if folder is None:
      logging.warning("The weights of %s are untrained (random): the video will be noise.",
                      config.name)
    else:
      self.card = checkpoints.read_model_card(folder)
      self._check_card()
    self.denoiser()  # solver, guidance and allocation are checked before any work is done

  def _check_card(self) -> None:
    for name in COMPONENTS:
      found = self.card.require(name)
      wanted = dataclasses.asdict(getattr(self.config.model, name))
      faults = config_lib.differences(found.config, wanted)
      if faults:
        raise InputError(
            f"Checkpoint {self.folder}: its {name} is not the one of config {self.config.name} "
            f"(checkpoint != config): {'; '.join(faults[:4])}.")

  def network(self, name: str) -> Network:
    return _network(name, getattr(self.config.model, name), getattr(self.config.precision, name))

  @contextlib.contextmanager
  def parameters(self, name: str) -> Iterator[Params]:
    """Parameters of one part on the device; freed at the end unless the config keeps them."""
    params = self._kept.get(name)
    if params is None:
      params = self._load(name)
    if self.config.keep_parts:
      self._kept[name] = params
      yield params
      return
    try:
      yield params
    finally:
      jax.tree.map(lambda leaf: leaf.delete(), params)
      del params
      gc.collect()

  def _load(self, name: str) -> Params:
    network = self.network(name)
    shardings = self.sharded.shardings if name == "transformer" and self.sharded else None
    if self.folder is None:
      return jax.device_put(network.untrained(self.config.seed), shardings)
    return checkpoints.load_component(self.folder, name, network.abstract, shardings=shardings)

  def compiled(self, program: str, **static) -> Callable:
    """A jitted program `(params, *arrays)`; static options are its keyword arguments.

    Programs: `text_encoder`, `image_encoder`, `audio_encoder` (options as in `wav2vec2`),
    `vae_encode` (video to latents) and `vae_decode` (latents to uint8 frames).
    """
    name, method = _PROGRAMS[program]
    if program == "vae_decode":
      static["finish"] = to_uint8
    return _compiled(self.network(name), method, tuple(sorted(static.items())))

  def encode_tokens(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """umT5 states [b, m, dim] float32 of token ids [b, m].

    From a model folder the encoder is streamed, one layer in memory at a time, unless the config
    keeps its parts: umT5-XXL is 11.4 GB, everything else together fits in half of that.
    """
    if self.folder is None or self.config.keep_parts:
      with self.parameters("text_encoder") as params:
        return np.asarray(self.compiled("text_encoder")(params, ids, mask), np.float32)
    stream = checkpoints.stream_component(self.folder, "text_encoder",
                                          self.network("text_encoder").abstract)
    states = umt5.encode_streaming(
        self.config.model.text_encoder, self.config.precision.text_encoder,
        lambda: stream.rows("token_embedding"), stream.layer, lambda: stream.part("norm"),
        ids, mask)
    return np.asarray(states, np.float32)

  def denoiser(self) -> Denoiser:
    return _denoiser(self.sharded or self.network("transformer"), self.config.model.transformer,
                     self.config.sampling, self.config.mesh.context)

  @property
  def sharded(self) -> ShardedTransformer | None:
    """The transformer on the mesh of the config; None where it runs on one device.

    Raises:
      InputError: the mesh has not as many places as there are devices, or heads do not divide.
    """
    if math.prod(self.config.mesh.sizes) == 1:
      return None
    return _sharded(self.config.model.transformer, self.config.precision.transformer,
                    self.config.mesh)

  def start_noise(self, noise: jax.Array) -> jax.Array:
    """`noise` where the denoiser wants it: whole on every device of the mesh."""
    return sharding.replicate(noise, self.sharded.mesh) if self.sharded else noise

  @property
  def tokenizer_path(self) -> pathlib.Path:
    """The tokenizer of the config or of the model folder."""
    if self.config.tokenizer or self.folder is None:
      return pathlib.Path(self.config.tokenizer)
    return self.folder / "tokenizer" / "tokenizer.json"

  def digest(self, name: str) -> str:
    """Identifies a part's parameters by content, for caches."""
    if self.card is None:
      return f"{UNTRAINED}-{self.config.name}-{self.config.seed}"
    sources = self.card.components[name].sources
    return " ".join(source["sha256"] for source in sources)


def load(checkpoint: str | pathlib.Path = "", config: Config | None = None) -> Model:
  """Opens a model.

  Args:
    checkpoint: model folder as `python -m convert` writes it, or `untrained` for random
      parameters; empty takes the config's.
    config: a sampling config; None takes the networks from the folder and the released settings
      of its variant.

  Raises:
    InputError: no checkpoint named, or it is missing, incomplete or of another model.
  """
  checkpoint = str(checkpoint or (config.checkpoint if config else ""))
  if not checkpoint:
    raise InputError("No checkpoint named; pass --checkpoint=DIR, a folder written by "
                     "`python -m convert`.")
  if checkpoint == UNTRAINED and config is not None:
    return Model(config, None)
  if config is None:
    config = _config_of_folder(checkpoints.read_model_card(checkpoint))
  return Model(config, pathlib.Path(checkpoint))


def _config_of_folder(card: checkpoints.ModelCard) -> Config:
  if card.variant not in RELEASED:
    raise InputError(f"{card.folder} is of variant {card.variant}, which has no released "
                     f"settings (known: {', '.join(RELEASED)}); give a config.")
  networks = {name: card.require(name).config for name in COMPONENTS}
  return config_lib.build(Config, {
      "name": f"echomimic_v3_{card.variant}", "model": networks,
      "sampling": dataclasses.asdict(RELEASED[card.variant])}, str(card.folder))
