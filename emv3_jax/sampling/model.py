"""A model as sampling uses it: its networks and the settings that it is sampled with."""

from collections.abc import Collection, Sequence
import dataclasses
import pathlib

from absl import logging

from emv3_jax import geometry, sharding, variants
from emv3_jax.components import programs
from emv3_jax.components.config import COMPONENTS, PrecisionConfig
from emv3_jax.components.networks import Networks
from emv3_jax.conditioning.text import tokenizer_file
from emv3_jax.errors import InputError
from emv3_jax.io import checkpoints
from emv3_jax.io.paths import refuse_address
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime.command_names import as_called
from emv3_jax.sampling import resolution
from emv3_jax.sampling.denoise import Denoiser, make_denoiser
from emv3_jax.sampling.settings import Config

UNTRAINED = "untrained"
DEFAULT = "tiny"  # the model that ships with the package, under this name
_DEFAULT_FOLDER = pathlib.Path(__file__).parents[1] / "assets" / DEFAULT
_PUPPET = 64  # pixels a side of its portrait


class Model(Networks):
  """Networks of one sampling config and its settings.

  Args:
    config: the sampling config.
    folder: model folder as `python -m convert` writes it; None for untrained random parameters.
    parts: the components that will be used; the folder need not hold others.
    said: dotted names of the fields that the command line set.

  Attributes:
    config: the config, its settings without gaps; see `sampling.resolution`.
    resolved: these settings, and where each comes from.

  Raises:
    InputError: the folder's networks are not those of the config (names the fields that differ), or
      the config's mesh does not fit the devices or the transformer.
  """

  def __init__(self, config: Config, folder: pathlib.Path | None,
               parts: Sequence[str] = COMPONENTS, said: Collection[str] = ()):
    super().__init__(config.model, config.precision, programs.mesh_of(config.mesh), folder, parts,
                     seed=config.seed, keep=config.keep_parts, name=config.name)
    if folder is None:
      logging.warning("The weights of %s are untrained (random): the video will be noise.",
                      config.name)
    own = self.card if "transformer" in parts else None  # else another model's settings
    if own is not None:
      resolution.warn_of_old_card(own)
      _tell_of_default(own.name)
    self.config, self.resolved = resolution.resolve_config(config, own, said)
    if "transformer" in parts:
      self.denoiser()  # solver, guidance and allocation are checked before any work is done

  def denoiser(self) -> Denoiser:
    """The denoising program, compiled once for all models whose configs agree."""
    config = self.config
    return make_denoiser(config.model.transformer, config.settings, self.mesh,
                         precision=config.precision.transformer, attention=config.mesh.attention)

  def check_size(self, size: tuple[int, int]) -> None:
    """
    Raises:
      InputError: token positions of pictures of `size` (H, W) do not divide over the mesh.
    """
    try:
      sharding.check_positions(self.mesh, geometry.token_grid(size))
    except InputError as error:
      raise InputError(f"{error} Set one with --config.sampling.height and "
                       "--config.sampling.width, or choose another --config.mesh.context.") from error

  def face_box_hint(self, size: tuple[int, int]) -> str:
    """Where a puppet's face is in a picture of `size` (height, width) that shows it as the small default's
    own portrait does, in whose middle it is; "" of other models. Detectors know no drawings."""
    if self.config.name != DEFAULT:
      return ""
    y1, y2, x1, x2 = map(int, (_DEFAULT_FOLDER / "face_box.txt").read_text().split(","))
    side, (height, width) = min(size), size
    scaled = [round(edge * side / _PUPPET + (length - side) / 2)
              for edge, length in ((y1, height), (y2, height), (x1, width), (x2, width))]
    return f"\nA puppet like the small default's has it at --face_box={','.join(map(str, scaled))}."

  @property
  def tokenizer_path(self) -> pathlib.Path:
    """The file of the tokenizer of the config or of the model folder."""
    if self.config.tokenizer or self.folder is None:
      return tokenizer_file(self.config.tokenizer)
    return tokenizer_file(self.folder / "tokenizer")


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
                     f"`{as_called('emv3-convert')}`, or --checkpoint=tiny with --config=tiny.")
  if checkpoint == UNTRAINED and config is not None:
    return Model(config, None, parts, said)
  if config is None:
    config = _config_of_folder(checkpoints.read_model_card(folder_of(checkpoint)))
  return Model(config, folder_of(checkpoint), parts, said)


def _config_of_folder(card: checkpoints.ModelCard) -> Config:
  if card.variant not in variants.names():
    raise InputError(f"{card.folder} is of variant {card.variant}, which cannot be sampled (known: "
                     f"{', '.join(variants.names())}); give a config.")
  networks = {name: card.require(name).config for name in COMPONENTS}
  precision = dataclasses.asdict(PrecisionConfig())
  if card.sampling is not None:
    precision |= card.sampling.precision
  return config_lib.build(Config, {
      "name": card.name or f"echomimic_v3_{card.variant}", "model": networks,
      "precision": precision}, str(card.folder))
