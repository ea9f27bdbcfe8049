"""What a checkpoint gives back, of a state of a few numbers."""

import chex
import jax
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.training.monitor.metrics import StepMetrics
from emv3_jax.training.run import run_config
from emv3_jax.training.run.checkpoints import Checkpoints
from tests.training import tiny


@pytest.fixture
def saved(tmp_path):
  """A folder with a checkpoint after 4 steps, the state, and what to load it into."""
  whole = jax.NamedSharding(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]), jax.P())
  state = {name: jax.device_put(np.full(3, value, np.float32), whole)
           for name, value in (("params", 1), ("ema", 2), ("step", 4))}
  abstract = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), state)
  with of_run(tmp_path) as checkpoints:
    checkpoints.save(4, state, [StepMetrics(4, "sft", {"loss": 0.5})])
  return tmp_path, state, abstract


def of_run(folder, writing=True, **fields) -> Checkpoints:
  config = tiny.config_of(**fields)
  return Checkpoints(folder, run_config.describe(config, {}), keep=2, writing=writing)


def test_a_state_comes_back_with_its_rows(saved):
  folder, state, abstract = saved
  with of_run(folder) as checkpoints:
    assert checkpoints.latest == 4
    found, rows = checkpoints.load(4, abstract)
  chex.assert_trees_all_equal(found, state)
  assert rows == [StepMetrics(4, "sft", {"loss": 0.5})]


def test_the_average_is_loaded_alone(saved):
  folder, state, abstract = saved
  with of_run(folder, writing=False) as checkpoints:
    np.testing.assert_array_equal(checkpoints.load_average(4, abstract["ema"]), state["ema"])


def test_a_checkpoint_of_another_run_is_refused(saved):
  folder, _, abstract = saved
  with of_run(folder, ema_decay=0.5) as checkpoints, pytest.raises(InputError, match="ema_decay"):
    checkpoints.load(4, abstract)
