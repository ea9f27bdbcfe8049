"""Description of a run in its checkpoints, and whether a run may resume from one."""

from collections.abc import Sequence
import dataclasses
import importlib.metadata
import json
import re

from absl import logging
import jax

from emv3_jax.errors import InputError
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.profile import versions
from emv3_jax.tasks import face_masks
from emv3_jax.training import curriculum
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.input.sources import needs_data
from emv3_jax.training.settings import Config

# What may change when a run resumes: how it is run and watched, where things lie. None of it
# changes what is learnt, but for the order of float32 sums (mesh, remat, accumulate, attention).
MAY_CHANGE = re.compile(
    r"name|program_cache|program_cache_mib|checkpoint|components|data|mesh\..*|preview\..*|sampling\..*"
    r"|train\.(steps|accumulate|remat|attention|log_every|checkpoint_every|preview_every|keep"
    r"|keep_every|data_threads|max_loss|wandb|wandb_name|wandb_mode)|stages\.\d+\.negatives")

_PACKAGES = ("optax", "grain", "array-record")  # beside those of sampling


def describe(config: Config, datasets: dict) -> dict:
  """JSON-able: the config, its seed, the datasets' digests, versions, processes and devices.

  Args:
    config: the run's.
    datasets: `Sources.digests()`; {} where no dataset matters.
  """
  packages = versions() | {name: importlib.metadata.version(name) for name in _PACKAGES}
  del packages["device"]
  return {
      "config": json.loads(json.dumps(dataclasses.asdict(config))), "seed": config.seed,
      "datasets": datasets, "versions": packages,
      "processes": jax.process_count(), "devices": jax.device_count(),
      "device_kind": jax.devices()[0].device_kind}


def check(found: dict, wanted: dict, step: int, where: str) -> None:
  """Checks that a run described by `wanted` may resume from a checkpoint of `found` after `step` steps.

  Stages that have not started may differ, and their datasets. Other versions of packages are warned
  of.

  Raises:
    InputError: a field of the config or a dataset differs; names all of them.
  """
  before, now = config_of(found["config"]), config_of(wanted["config"])
  assert now is not None  # it has all fields of this release
  if before is None:  # of a release with other fields, which are listed as differences
    faults = config_lib.differences(found["config"], wanted["config"])
  else:
    faults = [*config_lib.differences(_without_stages(before), _without_stages(now)),
              *_stage_faults(before.all_stages(), now.all_stages(), step)]
  faults = [fault for fault in faults if not MAY_CHANGE.fullmatch(fault.partition(":")[0])]
  if before is not None:
    faults += _dataset_faults(before, found["datasets"], wanted["datasets"], step)
  refuse_differences(faults, where)
  others = config_lib.differences(found["versions"], wanted["versions"])
  if others:
    logging.warning("The checkpoint was written with other versions (checkpoint != now): %s. The "
                    "last bits of results may differ.", "; ".join(others))


def refuse_differences(faults: Sequence[str], where: str) -> None:
  """Refuses to resume `where`, a checkpoint or folder, if it was written with other settings.

  Args:
    faults: differences, each as "name: there != now".
    where: what was written.

  Raises:
    InputError: there are some; names all of them.
  """
  if faults:
    shown = "\n".join(f"  {fault[:200]}" for fault in faults)
    raise InputError(f"{where} is of another run (checkpoint != config):\n{shown}\n"
                     "Give the config that it was written with, or another --workdir.")


def config_of(config: dict) -> Config | None:
  """A config whose fields that are younger than it have their defaults; None where some are no more."""
  if config.get("stages"):  # beside which releases up to 0.1 let a schedule stand, without effect
    config = {name: value for name, value in config.items() if name != "schedule"}
  # Runs that do not name it have one face mask for the whole clip.
  config = {**config, "loss": {"face_mask": face_masks.RELEASED, **config.get("loss", {})}}
  # Up to 0.1 settings of sampling were the preview's, and a dtype of sums was asked for and not used.
  config = {**config, "preview": _without(config["preview"], "sampling"),
            "precision": {name: _without(dtypes, "accumulate")
                          for name, dtypes in config["precision"].items()}}
  try:
    return config_lib.build(Config, config)
  except InputError:
    return None


def _without(fields: dict, name: str) -> dict:
  return {key: value for key, value in fields.items() if key != name}


def _without_stages(config: Config) -> dict:
  fields = dataclasses.asdict(config)
  return {name: value for name, value in fields.items() if name not in ("stages", "schedule")}


def _num_started(stages: Sequence[Stage], step: int) -> int:
  """How many stages have started after `step` steps; the first one has from the beginning."""
  return curriculum.stage_position(stages, max(step - 1, 0)).index + 1


def _stage_faults(before: Sequence[Stage], now: Sequence[Stage], step: int) -> list[str]:
  """Stages that have started and are others now."""
  started = _num_started(before, step)
  if len(now) < started:
    return [f"stages: {started} of them have begun; the config has {len(now)}"]
  by_number = lambda stages: {str(index): dataclasses.asdict(stage)
                              for index, stage in enumerate(stages[:started])}
  faults = config_lib.differences(by_number(before), by_number(now), "stages")
  if not faults and _num_started(now, step) > started:
    first = curriculum.first_steps(now)[started]
    faults = [f"stages.{started}: begins at step {first}, which the run has passed: it went on with "
              f"stages.{started - 1}"]
  return faults


def _dataset_faults(before: Config, found: dict, wanted: dict, step: int) -> list[str]:
  """Datasets of stages that have started which are others now. What is not there is not compared: a
  stage that needs it waits for it, one that has ended does not need it."""
  stages = before.all_stages()
  started, faults = stages[:_num_started(stages, step)], []
  found = _by_number(stages, found)
  pairs = [("data", "data", found, wanted)] if any(
      needs_data(before, stage) for stage in started) else []
  pairs += [(str(index), f"stages.{index}.negatives ({stage.name})", found["negatives"],
             wanted.get("negatives", {})) for index, stage in enumerate(started)]
  for key, name, left, right in pairs:
    if key in left and key in right:
      faults += config_lib.differences(left[key], right[key], f"dataset.{name}")
  return faults


def _by_number(stages: Sequence[Stage], datasets: dict) -> dict:
  """Digests with negatives by number of the stage; up to 0.1 they were kept by its name."""
  if isinstance(datasets.get("negatives"), dict):
    return datasets
  negatives = {str(index): datasets[stage.name] for index, stage in enumerate(stages)
               if stage.kind != "sft" and stage.name in datasets}
  return {**datasets, "negatives": negatives}
