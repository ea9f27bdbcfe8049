"""What a checkpoint says of the run that wrote it, and whether a run may go on from it."""

import dataclasses
import importlib.metadata
import json
import re

from absl import logging
import jax

from emv3_jax import config as config_lib
from emv3_jax.errors import InputError
from emv3_jax.sampling.report import versions
from emv3_jax.training.settings import Config

# What may be another when a run goes on: how it is run and watched, where things lie. None of it
# changes what is learnt, but for the order of float32 sums (mesh, remat, accumulate, attention).
MAY_CHANGE = re.compile(
    r"name|program_cache|checkpoint|components|data|mesh\..*|preview\..*|sampling\..*"
    r"|train\.(steps|accumulate|remat|attention|log_every|checkpoint_every|preview_every|keep"
    r"|keep_every|data_threads|max_loss)|stages\.\d+\.negatives")

_PACKAGES = ("optax", "grain", "array-record")  # beside those of sampling


def describe(config: Config, datasets: dict[str, str]) -> dict:
  """JSON-able: the config, its seed, the datasets' digests, versions, processes and devices."""
  packages = versions() | {name: importlib.metadata.version(name) for name in _PACKAGES}
  del packages["device"]
  return {
      "config": json.loads(json.dumps(dataclasses.asdict(config))), "seed": config.seed,
      "datasets": datasets, "versions": packages,
      "processes": jax.process_count(), "devices": jax.device_count(),
      "device_kind": jax.devices()[0].device_kind}


def check(found: dict, wanted: dict, where: str) -> None:
  """Checks that a run described by `wanted` may go on from a checkpoint of `found`.

  Other versions of packages are told in a warning.

  Raises:
    InputError: a field of the config or a dataset differs; names all of them.
  """
  faults = [fault for fault in config_lib.differences(_complete(found["config"]),
                                                      _complete(wanted["config"]))
            if not MAY_CHANGE.fullmatch(fault.partition(":")[0])]
  faults += config_lib.differences(found["datasets"], wanted["datasets"], "dataset")
  if faults:
    shown = "\n".join(f"  {fault[:200]}" for fault in faults)
    raise InputError(f"{where} is of another run (checkpoint != config):\n{shown}\n"
                     "Give the config that it was written with, or another --workdir.")
  others = config_lib.differences(found["versions"], wanted["versions"])
  if others:
    logging.warning("The checkpoint was written with other versions (checkpoint != now): %s. The "
                    "last bits of results may differ.", "; ".join(others))


def _complete(config: dict) -> dict:
  """A config with fields that are younger than it at their defaults, and its stages by number, so
  that differences are told field by field."""
  try:
    config = dataclasses.asdict(config_lib.build(Config, config))
  except InputError:
    pass  # fields that are no more are told as differences
  return {**config, "stages": {str(number): stage
                               for number, stage in enumerate(config["stages"])}}
