"""Steps of negative DPO and of paired Diffusion-DPO."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.models import transformer
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.objectives.draws import draw
from emv3_jax.training.settings import MIXED, NDPOConfig, OptimizerConfig
from emv3_jax.training.update.state import reference_params
from tests.compiler import QUICK
from tests.training import tiny

LOG2 = np.float32(np.log(2))
SGD = OptimizerConfig(name="sgd", b1=0.0, weight_decay=0.0, clip=1.0)


def _config(kind="ndpo", every=1, rate=0.02, **options):
  stage = Stage("unlearn", 9, kind=kind, every=every, learning_rate=rate)
  return tiny.config_of(stage, optimizer=SGD, ndpo=NDPOConfig(beta=20.0, **options))


def test_errors_on_negatives_rise_in_the_steps_of_a_cycle_that_unlearn():
  config = _config(every=2)
  programs = tiny.programs_of(config)
  assert [programs.train_step_at(step).kind for step in range(4)] == ["sft", "ndpo"] * 2
  state, steps = programs.initial_state(tiny.params_on(programs)), []
  for _ in range(5):
    state, metrics = programs.train_step_at(1)(state, tiny.batch_of(), tiny.EMPTY_TEXT)
    steps.append(jax.device_get(metrics))
  np.testing.assert_allclose(steps[0]["d"], steps[0]["d_ref"], rtol=1e-6)
  np.testing.assert_allclose(steps[0]["loss"], LOG2, rtol=1e-4)
  rise = [np.mean(metrics["d"] - metrics["d_ref"]) for metrics in steps]
  assert rise[-1] > 0.05 and steps[-1]["loss"] < 0.9 * LOG2
  for metrics in steps:
    want = np.log1p(np.exp(-20.0 * (metrics["d"] - metrics["d_ref"]))).mean()
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
  frozen = reference_params(tiny.params_of(programs.network), config.precision.transformer)
  chex.assert_trees_all_equal(jax.device_get(state["reference"]), frozen)


def test_absolute_measures_its_beta_and_positives_are_learnt_beside():
  config = _config(reading="absolute", calibration=2, sft_weight=0.5)
  positives = tiny.batch_of(range(10, 14))
  with pytest.raises(ValueError, match="needs positives"):
    tiny.programs_of(config).train_step_at(0).trace(None, tiny.batch_of(), tiny.EMPTY_TEXT)
  steps, state = tiny.run(config, 4, positives=positives)
  means = [np.mean(metrics["d"]) for metrics in steps]
  betas = [1 / steps[0]["d"], 1 / means[0], 2 / sum(means[:2]), 2 / sum(means[:2])]
  for metrics, beta in zip(steps, betas, strict=True):
    unlearnt = np.log1p(np.exp(-beta * metrics["d"])).mean()
    np.testing.assert_allclose(metrics["loss"],
                               unlearnt + 0.5 * metrics["positive_error"].mean(), rtol=1e-5)
    np.testing.assert_array_equal(metrics["positive_task"], positives.task)
  np.testing.assert_allclose(state["calibration"]["total"], sum(means[:2]), rtol=1e-6)
  assert state["calibration"]["count"] == 2


def test_paired_dpo_drives_pairs_apart():
  steps, _ = tiny.run(_config(kind="dpo"), 5, positives=tiny.batch_of(range(4), seed=5))
  np.testing.assert_allclose(steps[0]["loss"], LOG2, rtol=1e-4)
  margins = [np.mean(m["d"] - m["d_ref"] - (m["d_positive"] - m["d_positive_ref"])) for m in steps]
  assert abs(margins[0]) < 1e-5 and margins[-1] > 0.05


def test_a_model_in_mixed_precision_predicts_what_its_reference_does():
  config = tiny.config_of()
  config = dataclasses.replace(
      config, precision=dataclasses.replace(config.precision, transformer=MIXED))
  forward = tiny.programs_of(config).forward
  params, batch = tiny.params_of(forward.network), jax.tree.map(jnp.asarray, tiny.batch_of())
  draws = draw(config.seed, config.loss, jnp.int32(0), batch.example, batch.latents.shape[1:])
  velocity = jax.jit(lambda params: forward.velocity(
      params, batch, draws, forward.rope(batch.latents.shape)), compiler_options=QUICK)
  reference = reference_params(params, MIXED)
  np.testing.assert_array_equal(velocity(params), velocity(reference))
  whole = transformer.network(tiny.NETWORK).num_params()
  assert sum(leaf.nbytes for leaf in jax.tree.leaves(reference)) < 2.6 * whole
