"""What a step does with its gradients, and how it cuts a batch into parts; no network runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from emv3_jax.training.curriculum import Stage
from emv3_jax.training.settings import OptimizerConfig, TrainConfig
from emv3_jax.training.update.step import StepFunction
from tests.training import tiny

ADAM = OptimizerConfig(name="adamw", b1=0.0, b2=0.5, eps=1.0, weight_decay=0.0, clip=1.0)


def _step(*stages: Stage, train=None, **sizes) -> StepFunction:
  config = tiny.config_of(*stages, optimizer=ADAM)
  if train is not None:
    config = dataclasses.replace(config, train=train)
  programs = tiny.programs_of(tiny.on_mesh(config, **sizes))
  return StepFunction(programs.forward, programs.stages, programs.optimizer, "sft", "all")


def _updated(step: StepFunction, gradient, number: int = 0) -> tuple[dict, dict]:
  tree = lambda value: {"kernel": jnp.asarray(value, jnp.float32)}
  zeros = tree(np.zeros(2))
  state = {"step": jnp.int32(number), "params": zeros, "ema": zeros,
           "opt_state": step._optimizer.init(zeros)}
  return step._updated(state, zeros, {}, tree(gradient))


def test_gradients_are_clipped_before_the_optimiser():
  """Adam with an epsilon of 1 makes g / (|g| + 1) of a first gradient: it sees how long that is."""
  step = _step(Stage("a", 9, learning_rate=0.5))
  new, scalars = _updated(step, [3.0, -4.0])
  clipped = np.array([0.6, -0.8])
  np.testing.assert_allclose(new["params"]["kernel"], -0.5 * clipped / (np.abs(clipped) + 1),
                             rtol=1e-6)
  assert scalars["grad_norm"] == 5
  short, _ = _updated(step, [0.3, 0.0])
  np.testing.assert_allclose(short["params"]["kernel"], [-0.5 * 0.3 / 1.3, 0], rtol=1e-6)


def test_the_rate_is_that_of_the_step():
  step = _step(Stage("a", 2, learning_rate=1.0), Stage("b", 2, learning_rate=0.25))
  rates = [float(_updated(step, [1.0, 0.0], number)[1]["learning_rate"]) for number in range(4)]
  assert rates == [1.0, 1.0, 0.25, 0.25]


def test_rows_come_back_in_their_order():
  """Rows of two devices in two parts: each part takes rows of both."""
  step = _step(train=TrainConfig(batch=8, accumulate=2), data=2)
  rows = jnp.arange(8)
  cut = step._cut(rows)
  assert cut.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
  np.testing.assert_array_equal(step._joined(cut), rows)


def test_parts_of_a_batch_give_its_mean():
  step = _step(train=TrainConfig(batch=4, accumulate=2))
  step._pinned = lambda batches: batches
  numbers = jnp.array([1.0, 2.0, 3.0, 6.0])

  def objective(trained, batches):
    error = trained["w"] * batches["batch"]["x"]
    return error.mean(), {"error": error}

  loss, told, gradients = jax.jit(lambda: step._gradients(
      objective, {"w": jnp.float32(2.0)}, {"batch": {"x": numbers}}))()
  assert (loss, gradients["w"]) == (6.0, 3.0)
  np.testing.assert_array_equal(told["error"], 2 * numbers)
