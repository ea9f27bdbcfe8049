"""Real compilers, no hardware: memory, communication and warnings of the full-size programs."""

import dataclasses

import pytest

from configs import echomimic_v3_preview
from emv3_jax import config as config_lib
from emv3_jax.errors import InputError
from emv3_jax.plan import planner, targets
from emv3_jax.sampling.settings import Config
from emv3_jax.sharding import MeshConfig
from emv3_jax.training import settings as training_settings


def planned(name):
  target = targets.parse(name)
  try:
    targets.check_extra(target)
  except InputError as error:
    pytest.skip(str(error))
  return target


def plan(target, mesh, names, branches="batched"):
  target = planned(target)
  config = config_lib.build(Config, echomimic_v3_preview.get_config())
  sampling = dataclasses.replace(config.sampling, branches=branches)
  config = dataclasses.replace(config, sampling=sampling)
  return planner.plan(config, target, mesh, names=names)


def test_a_sampling_step_on_a_slice():
  (line,) = plan("v5e:2x2", ["context=4"], ["sample_step"])
  assert line["fits"] and not line["warnings"]
  assert 1.0 < line["peak_gib"] < 3.4
  assert line["parameters_gib"] < 3.2 / 4 + 0.05  # what is split is split over all chips
  assert line["collectives"]["all-to-all"]["count"] == 4  # q, k, v to heads; the output back


@pytest.mark.slow
@pytest.mark.parametrize("branches, limit", [("batched", 7.6), ("in_turn", 5.5)])
@pytest.mark.parametrize("target", ["v5e:1x1", "h100:1x1x1"])
def test_memory_of_a_sampling_step_on_one_chip(target, branches, limit):
  (line,) = plan(target, [], ["sample_step"], branches)
  assert line["peak_gib"] <= limit
  assert line["flops"] == pytest.approx(3.0e15, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["vae_decode", "vae_encode"])
@pytest.mark.parametrize("target", ["v5e:1x1", "h100:1x1x1"])
def test_memory_of_the_vae_on_one_chip(target, program):
  (line,) = plan(target, [], [program])
  assert line["peak_gib"] <= 5.0


@pytest.mark.slow
@pytest.mark.parametrize("target", ["v5e:2x4", "v6e:8x8", "h100:1x8x8"])
def test_everything_fits_larger_machines(target):
  lines = plan(target, [], ["sample_step", "vae_decode", "vae_encode"])
  assert all(line["fits"] and not line["warnings"] for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("target, batch, limit", [
    ("v5e:4x4", 4, 4.4), ("v5e:16x16", 64, 2.4), ("h100:1x2x8", 4, 5.2)])
def test_training_steps(target, batch, limit, record_property):
  """113 frames of 480x832: float32 parameters, two moments and an average, bfloat16 products."""
  target = planned(target)
  config = training_settings.Config("train", train=training_settings.TrainConfig(batch=batch))
  train, ndpo = planner.plan(config, target)
  record_property("peak_gib", [train["peak_gib"], ndpo["peak_gib"]])
  assert MeshConfig(**train["mesh"]) == MeshConfig(fsdp=target.devices // 4, context=4)
  assert train["peak_gib"] <= limit
  assert ndpo["peak_gib"] <= train["peak_gib"] + 0.4
  # Of q, k, v and the output: forward, again, backward; the reference runs forward once more.
  assert train["collectives"]["all-to-all"]["count"] == 12
  assert ndpo["collectives"]["all-to-all"]["count"] == 16
  assert not train["warnings"] and not ndpo["warnings"]
