"""What a step does with its gradients, and how it cuts a batch into parts; no network runs."""

import jax
import jax.numpy as jnp
import numpy as np

from emv3_jax.training.curriculum import Stage
from emv3_jax.training.settings import OptimizerConfig
from emv3_jax.training.update.optimizer import make_optimizer
from emv3_jax.training.update.step import (
  accumulated_gradients,
  apply_gradients,
  join_rows,
  split_rows,
)

OPTIMIZER = make_optimizer(
    OptimizerConfig(name="adamw", b1=0.0, b2=0.5, eps=1.0, weight_decay=0.0))


def updated(gradient, *stages: Stage, number: int = 0) -> tuple[dict, dict]:
  """State and metrics after step `number` of these stages; gradients are clipped to norm 1."""
  tree = lambda value: {"kernel": jnp.asarray(value, jnp.float32)}
  zeros = tree(np.zeros(2))
  state = {"step": jnp.int32(number), "params": zeros, "ema": zeros,
           "opt_state": OPTIMIZER.init(zeros)}
  return apply_gradients(state, zeros, {}, tree(gradient), OPTIMIZER, stages, clip=1.0,
                         ema_decay=0.9)


def test_gradients_are_clipped_before_the_optimiser():
  """Adam with an epsilon of 1 makes g / (|g| + 1) of a first gradient: it sees how long that is."""
  stage = Stage("a", 9, learning_rate=0.5)
  new, scalars = updated([3.0, -4.0], stage)
  clipped = np.array([0.6, -0.8])
  np.testing.assert_allclose(new["params"]["kernel"], -0.5 * clipped / (np.abs(clipped) + 1),
                             rtol=1e-6)
  assert scalars["grad_norm"] == 5
  short, _ = updated([0.3, 0.0], stage)
  np.testing.assert_allclose(short["params"]["kernel"], [-0.5 * 0.3 / 1.3, 0], rtol=1e-6)


def test_the_rate_is_that_of_the_step():
  stages = Stage("a", 2, learning_rate=1.0), Stage("b", 2, learning_rate=0.25)
  rates = [float(updated([1.0, 0.0], *stages, number=number)[1]["learning_rate"])
           for number in range(4)]
  assert rates == [1.0, 1.0, 0.25, 0.25]


def test_rows_come_back_in_their_order():
  """Rows of two devices in two parts: each part takes rows of both."""
  numbers = jnp.arange(8)
  split = split_rows(numbers, parts=2, rows=2)
  assert split.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
  np.testing.assert_array_equal(join_rows(split, parts=2, rows=2), numbers)


def test_parts_of_a_batch_give_its_mean():
  numbers = jnp.array([1.0, 2.0, 3.0, 6.0])

  def objective(trained, batches):
    error = trained["w"] * batches["batch"]["x"]
    return error.mean(), {"error": error}

  loss, by_example, gradients = jax.jit(lambda: accumulated_gradients(
      objective, {"w": jnp.float32(2.0)}, {"batch": {"x": numbers}}, parts=2, rows=1,
      constrain=lambda batches: batches))()
  assert (loss, gradients["w"]) == (6.0, 3.0)
  np.testing.assert_array_equal(by_example["error"], 2 * numbers)
