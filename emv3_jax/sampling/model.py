"""A model as sampling sees it: a folder of parts that are loaded, used and freed in turn."""

from collections.abc import Collection, Iterator, Sequence
import contextlib
import dataclasses
import gc
import pathlib

from absl import logging
import jax
import numpy as np

from emv3_jax import config as config_lib
from emv3_jax import sharding, start_up
from emv3_jax.errors import InputError
from emv3_jax.io import checkpoints, digests
from emv3_jax.io.paths import refuse_address
from emv3_jax.model_config import COMPONENTS, PrecisionConfig
from emv3_jax.models import umt5
from emv3_jax.models.network import Network, Params
from emv3_jax.sampling import programs, resolution
from emv3_jax.sampling.denoise import Denoiser
from emv3_jax.sampling.settings import RELEASED, Config

UNTRAINED = "untrained"
DEFAULT = "tiny"  # the model that ships with the package, under this name
_DEFAULT_FOLDER = pathlib.Path(__file__).parents[1] / "assets" / DEFAULT
_PUPPET = 64  # pixels a side of its portrait


class Model:
  """Networks of one config and where their parameters come from.

  Args:
    config: the sampling config.
    folder: model folder as `python -m convert` writes it; None for untrained random parameters.
    parts: the components that will be used; the folder need not hold others.
    said: dotted names of the fields that the command line set.

  Attributes:
    config: the config, its settings without gaps; see `sampling.resolution`.
    resolved: these settings, and where each comes from.
    mesh: the devices that every part runs on.

  Raises:
    InputError: the folder's networks are not those of the config (names the fields that differ), or
      the config's mesh does not fit the devices or the transformer.
  """

  def __init__(self, config: Config, folder: pathlib.Path | None,
               parts: Sequence[str] = COMPONENTS, said: Collection[str] = ()):
    self.config, self.folder = config, folder
    self.mesh = programs.mesh_of(config.mesh)
    self.card = None
    self._kept: dict[str, Params] = {}
    self._lent: dict[str, Params] = {}
    if folder is None:
      logging.warning("The weights of %s are untrained (random): the video will be noise.",
                      config.name)
    else:
      self.card = checkpoints.read_model_card(folder)
      self._check_card(parts)
    own = self.card if "transformer" in parts else None  # else another model's settings
    if own is not None:
      resolution.warn_of_old_card(own)
      _tell_of_default(own.name)
    self.config, self.resolved = resolution.resolve_config(config, own, said)
    if "transformer" in parts:
      self.denoiser()  # solver, guidance and allocation are checked before any work is done

  def _check_card(self, parts: Sequence[str]) -> None:
    for name in parts:
      found = self.card.require(name)
      wanted = dataclasses.asdict(getattr(self.config.model, name))
      faults = config_lib.differences(found.config, wanted)
      if faults:
        raise InputError(
            f"Checkpoint {self.folder}: its {name} is not the one of config {self.config.name} "
            f"(checkpoint != config): {'; '.join(faults[:4])}.")

  def network(self, name: str) -> Network:
    return programs.network(self.config, name)

  @contextlib.contextmanager
  def using(self, name: str, params: Params) -> Iterator[None]:
    """Takes the caller's parameters, which lie on the mesh, for a part within the block."""
    self._lent[name] = params
    try:
      yield
    finally:
      del self._lent[name]

  @contextlib.contextmanager
  def parameters(self, name: str) -> Iterator[Params]:
    """Parameters of one part on the mesh; freed at the end unless the config keeps them."""
    if name in self._lent:
      yield self._lent[name]
      return
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
    shardings = programs.shardings(network, name, self.mesh)
    if self.folder is None:
      with start_up.part("read"):
        params = network.untrained(self.config.seed)
      with start_up.part("place"):
        return jax.block_until_ready(jax.tree.map(sharding.put, params, shardings))
    return checkpoints.load_component(self.folder, name, network.abstract,
                                      shardings=shardings if self.mesh.size > 1 else None)

  def encode(self, name: str, params: Params, *arrays: np.ndarray, **static) -> np.ndarray:
    """States of an encoder, float32.

    Args:
      name: `text_encoder`, `image_encoder` or `audio_encoder`.
      params: its parameters.
      *arrays: what its network is called with.
      **static: options of the call, see `wav2vec2`.
    """
    run = programs.encoder(self.network(name), self.mesh, tuple(sorted(static.items())))
    return np.asarray(run(params, *sharding.replicate(arrays, self.mesh)), np.float32)

  def vae_encode(self, params: Params, video: np.ndarray) -> np.ndarray:
    """Latents float32 [b, f, H/8, W/8, 16] of videos [b, F, H, W, 3] in [-1, 1]."""
    clips, size8 = len(video), (video.shape[2] // 8, video.shape[3] // 8)
    run = programs.vae_encode(self.network("vae"), self.mesh, size8, clips)
    video = sharding.put(video, sharding.picture_sharding(self.mesh, clips, size8))
    return np.asarray(run(params, video), np.float32)

  def vae_decode(self, params: Params, latents: np.ndarray) -> np.ndarray:
    """Frames uint8 [b, F, H, W, 3] of latents [b, f, H/8, W/8, 16]."""
    run = programs.vae_decode(self.network("vae"), self.mesh, latents.shape[2:4], len(latents))
    return sharding.fetch(run(params, sharding.replicate(latents, self.mesh)))

  def encode_tokens(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """umT5 states [b, m, dim] float32 of token ids [b, m].

    On one device it is streamed from the model folder, one layer in memory at a time, unless the
    config keeps its parts: umT5-XXL is 11.4 GB, everything else together fits in half of that.
    Several devices share it.
    """
    if self.folder is None or self.config.keep_parts or self.mesh.size > 1:
      with self.parameters("text_encoder") as params:
        return self.encode("text_encoder", params, ids, mask)
    read = start_up.part("read")  # as a decorator
    stream = checkpoints.stream_component(self.folder, "text_encoder",
                                          self.network("text_encoder").abstract)
    states = umt5.encode_streaming(
        self.config.model.text_encoder, self.config.precision.text_encoder,
        lambda: stream.rows("token_embedding"), read(stream.layer), lambda: stream.part("norm"),
        ids, mask)
    return np.asarray(states, np.float32)

  def denoiser(self) -> Denoiser:
    return programs.denoiser(self.config, self.mesh)

  def check_size(self, size: tuple[int, int]) -> None:
    """
    Raises:
      InputError: token positions of pictures of `size` (H, W) do not divide over the mesh.
    """
    try:
      sharding.check_positions(self.mesh, (size[0] // 16, size[1] // 16))
    except InputError as error:
      raise InputError(f"{error} Set one with --config.sampling.height and "
                       "--config.sampling.width, or choose another --config.mesh.context.") from error

  def hint_of_face(self, size: tuple[int, int]) -> str:
    """Where a puppet's face is in a picture of `size` (height, width) that shows it as the small default's
    own portrait does, in whose middle it is; "" of other models. Detectors know no drawings."""
    if self.config.name != DEFAULT:
      return ""
    y1, y2, x1, x2 = map(int, (_DEFAULT_FOLDER / "face_box.txt").read_text().split(","))
    side, (height, width) = min(size), size
    scaled = [round(edge * side / _PUPPET + (length - side) / 2)
              for edge, length in ((y1, height), (y2, height), (x1, width), (x2, width))]
    return f"\nA puppet like the small default's has it at --face_box={','.join(map(str, scaled))}."

  def whole(self, array: np.ndarray | None) -> jax.Array | None:
    """`array` on every device of the mesh."""
    return None if array is None else sharding.replicate(array, self.mesh)

  @property
  def tokenizer_path(self) -> pathlib.Path:
    """The tokenizer of the config or of the model folder."""
    if self.config.tokenizer or self.folder is None:
      return pathlib.Path(self.config.tokenizer)
    return self.folder / "tokenizer" / "tokenizer.json"

  def digest(self, name: str) -> str:
    """Identifies a part's parameters by content; "" where they are the caller's or there are none.

    Raises:
      InputError: the model folder does not have them whole.
    """
    if name in self._lent:
      return ""
    if self.card is None:
      return digests.untrained_digest(getattr(self.config.model, name), self.config.seed, name)
    return digests.weights_digest(self.card, name) if name in self.card.components else ""


def _tell_of_default(name: str) -> None:
  if name == DEFAULT:
    logging.warning(
        "This is the small default: it knows drawn puppets only, no people, and shows blurs in t2v. "
        "Its own picture, voice and prompt are in %s; for people get the released model as "
        "docs/conversion.md tells.", _DEFAULT_FOLDER)


def folder_of(checkpoint: str) -> pathlib.Path:
  """The model folder of a name: the path, or what `tiny` stands for where no such path is."""
  refuse_address(checkpoint, "Checkpoint")
  folder = pathlib.Path(checkpoint)
  return _DEFAULT_FOLDER / "model" if checkpoint == DEFAULT and not folder.exists() else folder


def load(checkpoint: str | pathlib.Path = "", config: Config | None = None,
         parts: Sequence[str] = COMPONENTS, said: Collection[str] = ()) -> Model:
  """Opens a model.

  Args:
    checkpoint: model folder as `python -m convert` writes it, `tiny` for the small default, or
      `untrained` for random parameters; empty takes the config's.
    config: a sampling config; None takes networks, name, dtypes and settings from the folder, all
      of whose components have to be there then.
    parts: the components that will be used; with a config the folder need not hold others.
    said: dotted names of the fields of `config` that a command line set, for reports and messages.

  Raises:
    InputError: no checkpoint named, or it is missing, incomplete or of another model; a setting
      contradicts what the model says has to match its training.
  """
  checkpoint = str(checkpoint or (config.checkpoint if config else ""))
  if not checkpoint:
    raise InputError("No checkpoint named; pass --checkpoint=DIR, a folder written by "
                     "`python -m convert`, or --checkpoint=tiny with --config=configs/tiny.py.")
  if checkpoint == UNTRAINED and config is not None:
    return Model(config, None, parts, said)
  if config is None:
    config = _config_of_folder(checkpoints.read_model_card(folder_of(checkpoint)))
  return Model(config, folder_of(checkpoint), parts, said)


def _config_of_folder(card: checkpoints.ModelCard) -> Config:
  if card.variant not in RELEASED:
    raise InputError(f"{card.folder} is of variant {card.variant}, which cannot be sampled (known: "
                     f"{', '.join(RELEASED)}); give a config.")
  networks = {name: card.require(name).config for name in COMPONENTS}
  precision = dataclasses.asdict(PrecisionConfig())
  if card.sampling is not None:
    precision |= card.sampling.precision
  return config_lib.build(Config, {
      "name": card.name or f"echomimic_v3_{card.variant}", "model": networks,
      "precision": precision}, str(card.folder))
