"""Whether a run may go on from a checkpoint that another release wrote."""

import copy
import dataclasses

import pytest

from configs import train_tiny
from emv3_jax.config import build
from emv3_jax.errors import InputError
from emv3_jax.training import identity
from emv3_jax.training.settings import Config

CONFIG = build(Config, train_tiny.get_config())
DATASETS = {"data": "d", "negatives": {}}


def of_first_release(config: dict) -> dict:
  """As version 0.1 wrote it: other fields for the preview's settings and for dtypes."""
  old = copy.deepcopy(config)
  old["preview"]["sampling"] = {"steps": 10, "allocation": "phased"}
  del old["sampling"]
  for dtypes in old["precision"].values():
    dtypes["accumulate"] = "float32"
  return old


def test_a_run_of_the_first_release_goes_on():
  now = identity.describe(CONFIG, DATASETS)
  before = {**now, "config": of_first_release(now["config"]), "datasets": {"data": "d"}}
  identity.check(before, now, 10, "Checkpoint")
  other = identity.describe(dataclasses.replace(CONFIG, seed=1), DATASETS)
  with pytest.raises(InputError, match="seed: 0 != 1"):
    identity.check(before, other, 10, "Checkpoint")
