"""Training configs at the door."""

import dataclasses

import ml_collections
import pytest

from emv3_jax.errors import InputError
from emv3_jax.runtime import config as config_lib
from emv3_jax.training.curriculum import Mixture, Stage
from emv3_jax.training.settings import Config, ScheduleConfig, TrainConfig


def _built(config: Config, *assignments: str) -> Config:
  tree = ml_collections.ConfigDict(dataclasses.asdict(config))
  config_lib.override(tree, assignments, Config)
  return config_lib.build(Config, tree)


def test_a_config_survives_the_door():
  stages = (Stage("a", 10, Mixture(i2v=1, lipsync=2)), Stage("b", 5, kind="ndpo", every=3, ema_decay=0.5, ema_warmup="restart"))
  for config in (Config("plain"), Config("staged", stages=stages)):
    assert _built(config) == config


def test_stages_can_be_given_on_the_command_line():
  config = _built(Config("a"), "stages=({'name': 'x', 'steps': 7, 'mixture': {'lipsync': 1}},)")
  assert config.all_stages() == (Stage("x", 7, Mixture(lipsync=1.0)),)


def test_fields_of_stages_can_be_given_on_the_command_line():
  config = Config("a", stages=(Stage("x", 7), Stage("y", 7)))
  given = _built(config, "stages.1.learning_rate=2", "stages.1.mixture.t2v=1", "stages.0.ema_warmup=restart",
                 "stages.0.ema_decay=0.5")
  assert given.stages == (Stage("x", 7, ema_decay=0.5, ema_warmup="restart"),
                          Stage("y", 7, Mixture(i2v=1.0, t2v=1.0), learning_rate=2.0))
  with pytest.raises(InputError, match="Stage 'y': kind is 'other'; known: sft"):
    _built(config, "stages.1.kind=other")


def test_a_schedule_beside_stages_is_refused():
  stages = (Stage("x", 10),)
  with pytest.raises(InputError, match="stages, beside which schedule.steps, schedule.warmup would"):
    Config("a", stages=stages, schedule=ScheduleConfig(steps=50, warmup=3))
  assert Config("a", stages=stages, schedule=ScheduleConfig()).last_step == 10


def test_runs_stop_at_the_end_of_the_schedule_or_where_they_are_told_to():
  schedule = ScheduleConfig("paper", steps=50, warmup=3)
  config = Config("a", schedule=schedule)
  assert config.last_step == 50 and {stage.warmup for stage in config.all_stages()} == {3}
  stopped = dataclasses.replace(config, train=TrainConfig(steps=20))
  assert stopped.last_step == 20 and stopped.all_stages() == config.all_stages()


@pytest.mark.parametrize("assignment, message", [
    ("train.batch=0", "train.batch is 0; it must be 1 or more"),
    ("train.accumulate=3", "train.batch is 4; it does not divide into train.accumulate 3"),
    ("train.remat=some", "train.remat is 'some'; known: none, full"),
    ("train.attention=cuddn", "Unknown attention backend 'cuddn'; did you mean 'cudnn'"),
    ("preview.task=lipsink", "Unknown task 'lipsink'"),
    ("sampling.solver=heun", "Unknown solver 'heun'"),
    ("sampling.attention=tokamax:x", "names no tokamax kernel"),
    ("sampling.preset=papre", "sampling.preset is 'papre'"),
    ("program_cache=s3://b/c", "Program cache s3://b/c is an address"),
    ("data=gs://b/d", "Data gs://b/d is an address"), ("preview.audio=s3://b/a.wav", "Audio s3://b/a.wav is an"),
    ("schedule.preset=papre", "Unknown schedule 'papre'"),
    ("optimizer.name=adam", "optimizer.name is 'adam'; known: adamw, lion, muon, sgd"),
    ("loss.allocation=phase", "loss.allocation is 'phase'; known: a, b, c, phased, released"),
    ("ndpo.reading=relative", "ndpo.reading is 'relative'; known: reference, absolute"),
    ("ema_decay=1.0", "ema_decay is 1.0"),
    ("stages=({'name': 'x', 'steps': 1, 'kind': 'rlhf'},)", "kind is 'rlhf'"),
    ("stages=({'name': 'x', 'stesp': 1},)", "no field 'stesp'; did you mean 'steps'"),
    ("stages=({'name': 'x', 'steps': 1, 'ema_warmup': 'again'},)", "ema_warmup is 'again'"),
    ("stages=({'name': 'x', 'steps': 1, 'ema_decay': 1.0},)", "ema_decay is 1.0"),
])
def test_what_cannot_be_is_refused(assignment, message):
  with pytest.raises(InputError, match=message):
    _built(Config("a"), assignment)
