"""A part's training goes on where it was stopped, with the same bits."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp
import pytest

from emv3_jax.puppets.training import loop
from emv3_jax.puppets.training.settings import Learning, Phase, phase_at

LEARNING = Learning(rate=0.2, warmup=2, ema=0.9)
STEPS = 7


def batch_at(step):
  return {"x": np.random.default_rng(step).normal(size=(8, 3)).astype(np.float32)}


def loss(params, batch, step):
  noise = 0.01 * jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (8,))
  error = jnp.square(batch["x"] @ params["w"] - batch["x"].sum(1) + noise).mean()
  return error, {"error": error}


def run(folder, *stops):
  for stop in stops:
    state = loop.initial_state({"w": jnp.zeros(3)}, LEARNING, STEPS)
    step = loop.make_step(loss, LEARNING, STEPS)
    state = loop.train(state, step, batch_at, steps=stop, folder=folder, save_every=2, log_every=1)
  return state


def records(folder):
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [{k: v for k, v in json.loads(line).items() if k != "cpu_seconds"} for line in lines]


def test_resumed_run_is_bit_equal(tmp_path):
  whole, parted = run(tmp_path / "whole", STEPS), run(tmp_path / "parted", 3, STEPS)
  chex.assert_trees_all_equal(whole, parted)
  assert records(tmp_path / "whole") == records(tmp_path / "parted")
  assert [record["step"] for record in records(tmp_path / "whole")] == list(range(1, STEPS + 1))


def test_figures_after_the_checkpoint_are_dropped(tmp_path):
  run(tmp_path, 4)
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')  # killed before it was saved
  run(tmp_path, 6)
  assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_trains_and_keeps_the_average(tmp_path):
  state = run(tmp_path, STEPS)
  errors = [record["error"] for record in records(tmp_path)]
  assert errors[-1] < 0.9 * errors[0]
  fresh = loop.initial_state({"w": jnp.zeros(3)}, LEARNING, STEPS)
  step, average = loop.restore_average(tmp_path, lambda: fresh)
  assert step == STEPS
  np.testing.assert_array_equal(average["w"], state["ema"]["w"])
  assert not np.array_equal(state["ema"]["w"], state["params"]["w"])
  assert loop.restore_average(tmp_path / "nothing", lambda: fresh) is None


@pytest.mark.parametrize("step, frames", [(0, 1), (1, 1), (2, 5), (4, 5), (9, 5)])
def test_phases(step, frames):
  assert phase_at((Phase(1, 4, 2), Phase(5, 2, 3)), step).frames == frames


def test_muon_steps_have_all_directions_alike():
  """A kernel's step is orthogonal but for its scale, 0.2 a number; a vector's is Adam's at half the rate."""
  rule = loop.optimizer(Learning(rate=0.1, rule="muon", warmup=1, horizon=100, clip=1e9), 100)
  params = {"kernel": jnp.zeros((2, 3, 4)), "bias": jnp.zeros(4)}
  rng = np.random.default_rng(0)
  gradients = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)
  state = rule.init(params)
  for _ in range(2):  # the first step's rate is 0
    updates, state = rule.update(gradients, state, params)
  values = np.linalg.svd(np.asarray(updates["kernel"]).reshape(6, 4), compute_uv=False)
  assert values.max() < 1.8 * values.min()
  assert np.sqrt(np.square(updates["kernel"]).mean()) == pytest.approx(0.1 * 0.2, rel=0.3)
  np.testing.assert_allclose(updates["bias"], -0.05 * np.sign(gradients["bias"]), rtol=0.2)


def test_unknown_rule():
  with pytest.raises(ValueError, match="'moun'; known: adam, muon"):
    loop.optimizer(Learning(rate=0.1, rule="moun"), 200)


def test_checkpoints_of_version_0_1_are_resumed(tmp_path):
  """They hold the state alone, without a description of the run."""
  whole = run(tmp_path / "whole", STEPS)
  with ocp.training.Checkpointer((tmp_path / "old" / "checkpoints").absolute()) as checkpointer:
    checkpointer.save(3, run(tmp_path / "first", 3))
  jax.tree.map(np.testing.assert_array_equal, run(tmp_path / "old", STEPS), whole)
  assert [record["step"] for record in records(tmp_path / "old")] == [4, 5, 6, 7]
