"""Names of targets, what they stand for, and what their compilers need."""

import os

import jax
import pytest

from emv3_jax.errors import InputError
from emv3_jax.plan import gpus, targets


@pytest.mark.parametrize("name, chips, devices, platform", [
    ("v5e:1x1", 1, 1, "tpu"), ("v5p:2x2x4", 16, 16, "tpu"), ("tpu7x:2x2x1", 4, 8, "tpu"),
    ("h100:1x8x8", 64, 64, "gpu")])
def test_a_name_is_a_number_of_devices(name, chips, devices, platform):
  target = targets.parse(name)
  assert (target.chips, target.devices, target.platform) == (chips, devices, platform)


def test_an_unknown_chip_names_the_known_ones():
  with pytest.raises(InputError, match="'v5litepod'; known: .*v5e.*look like v5e:2x4.*h100:1x1x8"):
    targets.parse_list("v5e:2x2,v5litepod:4x4")
  with pytest.raises(InputError, match="no chip 'H10'; did you mean 'h100'?"):
    targets.parse("H10:1x1x8")


@pytest.mark.parametrize("name", ["v5e", "v5e:2x2x2", "v5e:0x4", "v5e:axb", "h100:8", "v5e:2x4 "])
def test_a_wrong_shape_shows_a_right_one(name):
  with pytest.raises(InputError, match=r"numbers, e\.g\. (v5e:2x4|h100:1x1x8)"):
    targets.parse(name)


@pytest.mark.parametrize("name, larger", [
    ("v5e:1x1", "v5e:2x2"), ("v5e:2x2", "v5e:2x4"), ("v5e:2x4", "v5e:4x4"),
    ("v5p:2x2x1", "v5p:2x2x2"), ("h100:1x1x4", "h100:1x1x8"), ("h100:1x1x8", "h100:1x2x8")])
def test_the_next_larger_target(name, larger):
  assert sorted(targets.larger(targets.parse(name)).shape) == sorted(targets.parse(larger).shape)


def test_a_shape_that_the_compiler_does_not_know_names_some_that_it_knows(monkeypatch):
  def unknown(*args, **kwargs):
    raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: not divisible\nmore")

  monkeypatch.setattr(targets.topologies, "get_topology_desc", unknown)
  with pytest.raises(InputError, match="knows no v5e:3x3, but e.g. v5e:1x1, v5e:2x2, v5e:2x4, "
                     "v5e:4x4: INVALID_ARGUMENT: not divisible$"):
    targets.compile_only_devices(targets.parse("v5e:3x3"))


@pytest.mark.parametrize("name, extra", [("v5e:1x1", "plan-tpu"), ("h100:1x1x1", "plan-gpu")])
def test_a_missing_compiler_names_the_command_that_installs_it(name, extra, monkeypatch):
  monkeypatch.setattr(targets, "_is_installed", lambda module: False)
  with pytest.raises(InputError, match=rf"pip install --editable '\.\[{extra}\]'"):
    targets.check_extra(targets.parse(name))


def test_a_package_inside_a_missing_one_is_missing():
  assert not targets._is_installed("no_such_package.module")


def test_the_level_of_optimisation_is_low_unless_it_is_set(monkeypatch):
  monkeypatch.delenv("JAX_OPTIMIZATION_LEVEL", raising=False)
  tpu, gpu = map(targets.parse, ("v5e:1x1", "h100:1x1x1"))
  assert targets.environment(tpu)["JAX_OPTIMIZATION_LEVEL"] == "O0"
  assert "JAX_OPTIMIZATION_LEVEL" not in targets.environment(gpu)
  monkeypatch.setenv("JAX_OPTIMIZATION_LEVEL", "O1")
  assert targets.environment(tpu)["JAX_OPTIMIZATION_LEVEL"] == "O1"
  assert targets.environment(tpu)["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("name", gpus.GPUS)
def test_a_gpu_is_described_to_its_compiler(name):
  text = gpus.target_config(name)
  assert f"device_memory_size: {gpus.GPUS[name].memory_bytes}" in text
  assert text.count("{") == text.count("}") == 4
