"""What may be another when a run goes on: later stages may, those that have begun may not."""

import copy
import dataclasses

import pytest

from configs import train_tiny
from emv3_jax.errors import InputError
from emv3_jax.runtime.config import build
from emv3_jax.training.curriculum import Mixture, Stage
from emv3_jax.training.run import run_config
from emv3_jax.training.settings import Config, NDPOConfig, OptimizerConfig, ScheduleConfig

LEARN, HANDS, RECOVER = (Stage("learn", 10), Stage("hands", 10, kind="ndpo", negatives="n"),
                         Stage("recover", 10))
CONFIG = Config("run", data="d", stages=(LEARN, HANDS, RECOVER))
DATASETS = {"data": "0", "negatives": {"1": "1"}}
TINY = build(Config, train_tiny.get_config())


def go_on(step, after: Config, datasets=DATASETS, before: Config = CONFIG, found=DATASETS):
  run_config.check(run_config.describe(before, found), run_config.describe(after, datasets), step, "It")


def of_stages(*stages, **fields):
  return dataclasses.replace(CONFIG, stages=stages, **fields)


@pytest.mark.parametrize("stages", [
    (LEARN, HANDS), (LEARN, HANDS, RECOVER, HANDS), (LEARN, HANDS, dataclasses.replace(RECOVER, steps=3)),
    (LEARN, dataclasses.replace(HANDS, negatives="elsewhere"), Stage("other", 5, Mixture(t2v=1.0)))])
def test_stages_that_have_not_begun_may_be_others(stages):
  go_on(20, of_stages(*stages))
  go_on(11, of_stages(*stages))


@pytest.mark.parametrize("step, stages, fault", [
    (1, (dataclasses.replace(LEARN, learning_rate=0.5), HANDS), "stages.0.learning_rate: 0.0001 != 0.5"),
    (10, (dataclasses.replace(LEARN, steps=20),), "stages.0.steps: 10 != 20"),
    (11, (LEARN, dataclasses.replace(HANDS, every=2)), "stages.1.every: 1 != 2"),
    (21, (LEARN, HANDS), "stages: 3 of them have begun; the config has 2"),
    (35, (LEARN, HANDS, RECOVER, HANDS), "stages.3: begins at step 30, which the run has passed")])
def test_stages_that_have_begun_stay(step, stages, fault):
  with pytest.raises(InputError, match=fault):
    go_on(step, of_stages(*stages))


def test_a_preset_may_be_written_out():
  schedule = ScheduleConfig(steps=20)
  before = dataclasses.replace(CONFIG, stages=(), schedule=schedule)
  go_on(20, of_stages(*schedule.stages(), HANDS), before=before)
  with pytest.raises(InputError, match="stages.0.steps: 12 != 18"):
    go_on(1, dataclasses.replace(before, schedule=ScheduleConfig(steps=30)), before=before)


@pytest.mark.parametrize("fields, fault", [
    (dict(optimizer=OptimizerConfig("lion")), "optimizer.name: 'adamw' != 'lion'"),
    (dict(loss=dataclasses.replace(CONFIG.loss, mouth=2.0)), "loss.mouth: 0.0 != 2.0"),
    (dict(dropout=dataclasses.replace(CONFIG.dropout, audio=0.2)), "dropout.audio: 0.1 != 0.2"),
    (dict(ndpo=NDPOConfig(beta=5.0)), "ndpo.beta"), (dict(seed=3), "seed: 0 != 3"),
    (dict(ema_decay=0.5), "ema_decay: 0.9999 != 0.5"),
    (dict(train=dataclasses.replace(CONFIG.train, batch=2)), "train.batch: 4 != 2")])
def test_what_decides_what_is_learnt_stays(fields, fault):
  with pytest.raises(InputError, match=fault):
    go_on(5, dataclasses.replace(CONFIG, **fields))


@pytest.mark.parametrize("step, datasets, fault", [
    (1, {"data": "other"}, "dataset.data: '0' != 'other'"),
    (11, {"negatives": {"1": "other"}}, r"dataset.stages.1.negatives \(hands\): '1' != 'other'"),
    (25, {"negatives": {"1": "other"}}, "stages.1.negatives"),
    (10, {"negatives": {"1": "other"}}, None),  # the stage has not begun
    (25, {"negatives": {}}, None),  # ended: nothing is taken from it any more
    (11, {}, None)])
def test_datasets_of_stages_that_have_begun_stay(step, datasets, fault):
  act = lambda: go_on(step, CONFIG, {**DATASETS, **datasets})
  if fault is None:
    act()
  else:
    with pytest.raises(InputError, match=fault):
      act()


def test_data_that_nothing_was_taken_from_may_be_others():
  stages = HANDS, LEARN
  found, now = ({"data": name, "negatives": {"0": "1"}} for name in ("0", "other"))
  go_on(5, of_stages(*stages), now, of_stages(*stages), found)
  with pytest.raises(InputError, match="dataset.data"):
    go_on(11, of_stages(*stages), now, of_stages(*stages), found)


def test_checkpoints_of_version_0_1():
  """Negatives by name of the stage, fields of today missing, a schedule beside stages."""
  before = run_config.describe(CONFIG, {"data": "0", "hands": "1"})
  for stage in before["config"]["stages"]:
    for name in ("ema_decay", "ema_warmup"):
      stage.pop(name, None)
  before["config"]["schedule"]["steps"] = 77
  check = lambda datasets: run_config.check(before, run_config.describe(CONFIG, datasets), 15, "It")
  check(DATASETS)
  with pytest.raises(InputError, match=r"dataset.stages.1.negatives \(hands\)"):
    check({**DATASETS, "negatives": {"1": "other"}})


def of_first_release(config: dict) -> dict:
  """As version 0.1 wrote it: other fields for the preview's settings and for dtypes."""
  old = copy.deepcopy(config)
  old["preview"]["sampling"] = {"steps": 10, "allocation": "phased"}
  del old["sampling"]
  for dtypes in old["precision"].values():
    dtypes["accumulate"] = "float32"
  return old


def test_a_run_that_names_no_face_mask_had_one_box_for_each_clip():
  released = dataclasses.replace(TINY, loss=dataclasses.replace(TINY.loss, face_mask="released"))
  before = run_config.describe(released, {"data": "d", "negatives": {}})
  before = copy.deepcopy(before)
  del before["config"]["loss"]["face_mask"]
  check = lambda config: run_config.check(before, run_config.describe(config, before["datasets"]), 10, "Checkpoint")
  check(released)
  with pytest.raises(InputError, match="loss.face_mask: 'released' != 'moving'"):
    check(TINY)


def test_a_run_of_the_first_release_goes_on():
  now = run_config.describe(TINY, {"data": "d", "negatives": {}})
  before = {**now, "config": of_first_release(now["config"]), "datasets": {"data": "d"}}
  run_config.check(before, now, 10, "Checkpoint")
  other = run_config.describe(dataclasses.replace(TINY, seed=1), {"data": "d", "negatives": {}})
  with pytest.raises(InputError, match="seed: 0 != 1"):
    run_config.check(before, other, 10, "Checkpoint")
