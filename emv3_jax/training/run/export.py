"""The average of the weights as a model folder that sampling takes."""

import dataclasses
import pathlib

from absl import logging

from emv3_jax.components.config import COMPONENTS
from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import save_component, write_tokenizer
from emv3_jax.io.component_links import link_component
from emv3_jax.io.model_card import TRANSFORMER, SamplingCard, read_model_card
from emv3_jax.models.network import Params
from emv3_jax.runtime import processes
from emv3_jax.sampling.resolution import MUST_MATCH, RECOMMENDED
from emv3_jax.training.run import run_config
from emv3_jax.training.run.checkpoints import FOLDER, Checkpoints
from emv3_jax.training.run.origin import UNTRAINED, RunCheckpoint, first_model_folder, origin_of
from emv3_jax.training.settings import Config
from emv3_jax.training.update.programs import TrainPrograms

MODEL = "model"  # in the run's folder
OTHERS = tuple(name for name in COMPONENTS if name != TRANSFORMER)


def components_folder(config: Config) -> pathlib.Path | None:
  """Model folder of the networks that are not trained; None where the config knows of none.

  Raises:
    InputError: `checkpoint` names a run that cannot be used.
  """
  return first_model_folder(config)


def check_components(config: Config) -> None:
  """Checks, before a run begins, that what it is to end with can be made.

  Raises:
    InputError: the folder with the other networks is not there, or one of them is not whole.
  """
  source = components_folder(config)
  if source is not None:
    card = read_model_card(source)
    for name in OTHERS:
      if name in card.components:
        card.require(name)


def sampling_card(config: Config) -> SamplingCard:
  """What the model folder of this run says of how it wants to be sampled.

  The allocation and the face mask have to be those of the loss. What the config does not recommend is taken from the
  checkpoint that the run starts from.
  """
  given = {name: getattr(config.sampling, name) for name in RECOMMENDED}
  given = {name: value for name, value in given.items() if value is not None}
  before = _recommended_before(config)
  compute = lambda precision: {"params": precision.compute, "compute": precision.compute}
  return SamplingCard(
      must_match={name: getattr(config.loss, name) for name in MUST_MATCH}, recommended={**before, **given},
      precision={**{name: dataclasses.asdict(getattr(config.precision, name)) for name in OTHERS},
                 TRANSFORMER: compute(config.precision.transformer)})


def _recommended_before(config: Config) -> dict:
  """What the checkpoint that the config starts from recommends."""
  if config.checkpoint in ("", UNTRAINED):
    return {}
  origin = origin_of(config.checkpoint)
  if isinstance(origin, RunCheckpoint):
    return sampling_card(origin.config).recommended
  found = read_model_card(config.checkpoint).sampling
  return found.recommended if found is not None else {}


def export_model(config: Config, average: Params, step: int, folder: pathlib.Path) -> None:
  """Writes `average` (float32) as the transformer of `folder`, the other networks beside it.

  Every process calls this with its shards.

  Raises:
    InputError: the folder cannot be written, or the other networks are not whole.
  """
  transformer = config.model.transformer
  save_component(folder, TRANSFORMER, average, config=dataclasses.asdict(transformer),
                 variant=transformer.variant, model_name=config.name,
                 sampling=sampling_card(config))
  source = components_folder(config)
  if processes.is_first():
    if source is None:
      logging.warning("%s has a transformer only: the config names no model folder with the other "
                      "networks; set --config.components=DIR.", folder)
    else:
      _link_others(source, folder)
    logging.info("Wrote the average of the weights after %d steps to %s.", step, folder)


def _link_others(source: pathlib.Path, folder: pathlib.Path) -> None:
  present = read_model_card(source).components
  for name in OTHERS:
    if name in present:
      link_component(folder, name, source)
  missing = [name for name in OTHERS if name not in present]
  if missing:
    logging.warning("%s has no %s, so %s has none either.", source, ", ".join(missing), folder)
  tokenizer = source / "tokenizer" / "tokenizer.json"
  if tokenizer.exists():
    write_tokenizer(folder, tokenizer)


def export_newest(config: Config, workdir: pathlib.Path, folder: pathlib.Path | None = None,
                  programs: TrainPrograms | None = None) -> None:
  """Writes the average of the weights of the newest checkpoint as a model folder.

  Args:
    config: the run's.
    workdir: its folder; a run may be at work there.
    folder: the model folder; None takes WORKDIR/model.
    programs: of the same schedule and network; None makes them.

  Raises:
    InputError: there is no checkpoint, it is of another config, or the folder cannot be written.
  """
  if not (workdir / FOLDER).is_dir():
    raise InputError(f"{workdir} holds no checkpoints; give the --workdir of a run.")
  check_components(config)
  programs = programs or TrainPrograms(config)
  description = run_config.describe(config, {})  # no dataset matters, and none need be there
  with Checkpoints(workdir, description, config.train.keep, writing=False) as checkpoints:
    step = checkpoints.latest
    if step is None:
      raise InputError(f"{workdir} holds no whole checkpoint yet.")
    average = checkpoints.load_average(step, programs.abstract_state(step)["ema"])
  export_model(config, average, step, folder or workdir / MODEL)
