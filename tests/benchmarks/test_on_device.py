"""Planned programs run on the device that is there."""

import json

import pytest

from benchmarks import on_device
from emv3_jax.errors import InputError

SMALL = ["--config=configs/tiny.py", "--frames=5", "--height=32", "--width=32", "--runs=1",
         "--config.model.transformer.num_layers=1"]


def test_a_sampling_step_runs(capsys):
  assert on_device.main([*SMALL, "--program=sample_step"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["device"] == "cpu" and len(found["seconds"]) == 1 and found["seconds"][0] > 0
  assert found["planned_gib"] > 0 and found["share_of_peak"] is None


def test_a_program_that_is_not_there():
  with pytest.raises(InputError, match="sample_step, vae_decode"):
    on_device.main([*SMALL, "--program=train_step"])


def test_sizes_that_no_clip_has():
  with pytest.raises(InputError, match="multiples of 16"):
    on_device.main([*SMALL, "--height=40"])
