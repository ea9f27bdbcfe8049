"""The model for sampling: its networks and its sampling settings."""

from collections.abc import Collection, Sequence
import dataclasses
import pathlib

from absl import logging

from emv3_jax import geometry, sharding, variants
from emv3_jax.components import programs
from emv3_jax.components.config import COMPONENTS, PrecisionConfig
from emv3_jax.components.networks import Networks
from emv3_jax.conditioning.text import tokenizer_file
from emv3_jax.diffusion.guidance import Schedule
from emv3_jax.errors import InputError
from emv3_jax.io import checkpoints
from emv3_jax.io.paths import refuse_address
from emv3_jax.models.network import Params
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime.command_names import as_called
from emv3_jax.sampling import resolution, skipping
from emv3_jax.sampling.cache_settings import CacheConfig
from emv3_jax.sampling.cached_steps import Runs, branch_names, make_cached_denoiser
from emv3_jax.sampling.denoise import Denoiser, make_denoiser
from emv3_jax.sampling.long_settings import LongConfig
from emv3_jax.sampling.settings import Config
from emv3_jax.sampling.skipping import Skipping

UNTRAINED = "untrained"
DEFAULT = "tiny"  # the model that ships with the package, under this name
_DEFAULT_FOLDER = pathlib.Path(__file__).parents[1] / "assets" / DEFAULT
_PUPPET = 64  # pixels a side of its portrait


class Model(Networks):
  """Networks of one sampling config and its settings.

  Args:
    config: the sampling config.
    folder: model folder as `python -m convert` writes it; None for untrained random parameters.
    parts: the components that will be used; the folder may lack the others.
    overridden: dotted names of the fields that the command line overrides.

  Attributes:
    config: the config with complete settings; see `sampling.resolution`.
    resolved: these settings and the origin of each.
    skipping: how steps are skipped; None where none is.

  Raises:
    InputError: the folder's networks differ from those of the config (the message names the fields), the
      mesh of the config does not fit the devices or the transformer, or the step cache cannot be used.
  """

  def __init__(self, config: Config, folder: pathlib.Path | None,
               parts: Sequence[str] = COMPONENTS, overridden: Collection[str] = ()):
    super().__init__(config.model, config.precision, programs.mesh_of(config.mesh), folder, parts,
                     seed=config.seed, keep=config.keep_parts, name=config.name)
    if folder is None:
      logging.warning("The weights of %s are untrained (random): the video will be noise.",
                      config.name)
    card = self.card if "transformer" in parts else None  # otherwise its settings are of another model
    if card is not None:
      resolution.warn_of_old_card(card)
      _warn_of_default(card.name)
    self.config, self.resolved = resolution.resolve_config(config, card, overridden)
    self.skipping: Skipping | None = None
    if "transformer" in parts:
      denoiser = self.denoiser()  # solver, guidance and allocation are checked before any work is done
      settings = self.config.settings
      schedules = denoiser.schedule, denoiser.guidance.schedule(settings.steps, settings.long.mode)
      self.skipping = skipping.of(settings, self.config.model.transformer, folder, lambda: self.digest("transformer"),
                                  [branch_names(schedule) for schedule in schedules])

  def denoiser(self) -> Denoiser:
    """Returns the denoising program, compiled once for all models with equal configs."""
    config = self.config
    settings = dataclasses.replace(config.settings, long=LongConfig(), cache=CacheConfig("none"))  # which change no program
    return make_denoiser(config.model.transformer, settings, self.mesh,
                         precision=config.precision.transformer, attention=config.mesh.attention)

  def runs(self, params: Params, schedule: Schedule) -> Runs | None:
    """Decides which steps run the transformer's blocks, and logs it; None where none can be skipped.

    Args:
      params: parameters of the transformer.
      schedule: guidance of the steps.

    Raises:
      InputError: MagCache's calibration does not have a branch of the schedule.
    """
    if self.skipping is None:
      return None
    cached = make_cached_denoiser(self.denoiser())
    return self.skipping.schedule(
        branch_names(schedule), cached.modulation(params) if self.skipping.needs_modulation else None)

  @property
  def calibration_path(self) -> pathlib.Path | None:
    """Path of the step cache's calibration; None where the settings use none."""
    return skipping.calibration_path(self.config.settings, self.folder)

  def check_size(self, size: tuple[int, int]) -> None:
    """Checks that pictures of `size` (H, W) in pixels can be sharded.

    Raises:
      InputError: their token positions do not divide over the mesh.
    """
    try:
      sharding.check_positions(self.mesh, geometry.token_grid(size))
    except InputError as error:
      raise InputError(f"{error} Set one with --config.sampling.height and "
                       "--config.sampling.width, or choose another --config.mesh.context.") from error

  def face_box_hint(self, size: tuple[int, int]) -> str:
    """Suggests a face box for a puppet, because face detectors do not find every drawn face.

    Args:
      size: (height, width) of a picture with the face at the same position as in the portrait of the small
        default model, centred.

    Returns:
      The end of a message; "" for other models.
    """
    if self.config.name != DEFAULT:
      return ""
    y1, y2, x1, x2 = map(int, (_DEFAULT_FOLDER / "face_box.txt").read_text().split(","))
    side, (height, width) = min(size), size
    scaled = [round(edge * side / _PUPPET + (length - side) / 2)
              for edge, length in ((y1, height), (y2, height), (x1, width), (x2, width))]
    return f"\nA puppet like the small default's has it at --face_box={','.join(map(str, scaled))}."

  @property
  def tokenizer_path(self) -> pathlib.Path:
    """File of the tokenizer of the config, else of the model folder."""
    if self.config.tokenizer or self.folder is None:
      return tokenizer_file(self.config.tokenizer)
    return tokenizer_file(self.folder / "tokenizer")


def _warn_of_default(name: str) -> None:
  if name == DEFAULT:
    logging.warning(
        "This is the small default model: it generates only drawn puppets, no people. Its picture, voice and prompt "
        "are in %s; for people get the released model as described in docs/conversion.md.", _DEFAULT_FOLDER)


def folder_of(checkpoint: str) -> pathlib.Path:
  """Returns the model folder of a name: the path, or the embedded folder for `tiny` if no such path exists."""
  refuse_address(checkpoint, "Checkpoint")
  folder = pathlib.Path(checkpoint)
  return _DEFAULT_FOLDER / "model" if checkpoint == DEFAULT and not folder.exists() else folder


def load(checkpoint: str | pathlib.Path = "", config: Config | None = None,
         parts: Sequence[str] = COMPONENTS, overridden: Collection[str] = ()) -> Model:
  """Opens a model.

  Args:
    checkpoint: model folder as `python -m convert` writes it, `tiny` for the small default, or
      `untrained` for random parameters; empty takes the config's.
    config: a sampling config; None takes networks, name, dtypes and settings from the folder, which
      must then have all components.
    parts: the components that will be used; with a config the folder may lack the others.
    overridden: dotted names of the fields of `config` that a command line overrides, for reports and
      messages.

  Raises:
    InputError: no checkpoint is named, or it is missing, incomplete or of another model; a setting
      contradicts one that must match the model's training.
  """
  checkpoint = str(checkpoint or (config.checkpoint if config else ""))
  if not checkpoint:
    raise InputError("No checkpoint named; pass --checkpoint=DIR, a folder written by "
                     f"`{as_called('emv3-convert')}`, or --checkpoint=tiny with --config=tiny.")
  if checkpoint == UNTRAINED and config is not None:
    return Model(config, None, parts, overridden)
  if config is None:
    config = _config_of_folder(checkpoints.read_model_card(folder_of(checkpoint)))
  return Model(config, folder_of(checkpoint), parts, overridden)


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
