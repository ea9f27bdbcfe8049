"""Real compilers, no hardware: memory, communication and warnings of the full-size programs."""

import dataclasses

import pytest

from configs import echomimic_v3_preview
from emv3_jax import config as config_lib
from emv3_jax.errors import InputError
from emv3_jax.plan import planner, targets
from emv3_jax.sampling.settings import Config


def plan(target, mesh, names, branches="batched"):
  target = targets.parse(target)
  try:
    targets.check_extra(target)
  except InputError as error:
    pytest.skip(str(error))
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
def test_heads_that_do_not_divide_are_an_error():
  with pytest.raises(InputError, match="12 heads do not divide over context 8"):
    plan("v5e:2x4", ["context=8"], ["sample_step"])
