"""Runs that skip steps: against a loop by hand, however branches, windows and meshes are laid out; calibration."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.diffusion import windows
from emv3_jax.models import rope
from emv3_jax.runtime import executables, kept_programs
from emv3_jax.sampling import cached_steps, calibrating
from emv3_jax.sampling.cached_steps import CachedDenoiser
from emv3_jax.sampling.denoise import Conditions, Denoiser
from emv3_jax.sampling.long_plan import LongPlan
from emv3_jax.sampling.window_denoiser import WindowDenoiser
from emv3_jax.sharding import MeshConfig, make_mesh
from tests import golden_data
from tests.sampling.test_golden_runs import channels_last, conditions_of, denoiser_and_params

RUNS = np.array([True, False, False, True, False])
SMALL = 8, 12  # H8, W8 of the golden runs
FRAMES = 2


@functools.cache
def case(name="std_dynamic"):
  """A denoiser of five steps, its parameters, noise and conditions of two latent frames."""
  golden = golden_data.load("e2e", name)
  denoiser, params = denoiser_and_params(golden, steps=5, neg_scale=1.0, solver="euler")
  whole, noise = conditions_of(golden), channels_last(golden["init_noise"])
  rate = 2 if name == "std_dynamic" else 1
  conditions = dataclasses.replace(whole, audio=whole.audio[:, :5 * rate], condition=whole.condition[:, :FRAMES])
  return denoiser, params, noise[:, :FRAMES], conditions


@functools.cache
def one_branch(name="std_dynamic"):
  """(run, skip): compiled passes of one branch, at a step of the case's denoiser."""
  denoiser, params, _, conditions = case(name)
  bind, condition = denoiser.transformer.network.bind, conditions.condition
  table = rope.rope_table((FRAMES, SMALL[0] // 2, SMALL[1] // 2), denoiser.transformer.config.head_dim)

  @jax.jit
  def run(params, x, sinusoid, text, audio):
    context = bind(params).project(text, conditions.image, audio)
    return bind(params).with_residual(x, condition, sinusoid, context, rope=table, face_mask=conditions.face_mask)

  skip = jax.jit(lambda params, x, sinusoid, residual: bind(params).from_residual(x, condition, sinusoid, residual))
  sinusoid = lambda i: denoiser.tables.sinusoid[i][None]
  return (lambda i, x, *inputs: run(params, x, sinusoid(i), *inputs),
          lambda i, x, residual: skip(params, x, sinusoid(i), residual))


@functools.cache
def by_hand(name="std_dynamic", until=5, runs=tuple(RUNS)):
  """Latents before each step and after the last, every branch by itself, guided in the first `until` steps; and the
  residuals of the branch with prompt and voice."""
  denoiser, _, x, conditions = case(name)
  run, skip = one_branch(name)
  scales, sigmas = denoiser.guidance.scales(5), denoiser.solver.schedule.sigmas
  silence, text = np.zeros_like(conditions.audio), conditions.text
  branches = {"full": (text["prompt"], conditions.audio), "text": (text["prompt"], silence)}
  if "negative" in text:
    branches["un"] = text["negative"], silence
  residuals, latents, kept = {}, [x], []
  for i in range(5):
    said = {}
    for branch, inputs in branches.items():
      if runs[i]:
        said[branch], residuals[branch] = run(i, x, *inputs)
      else:
        said[branch] = skip(i, x, residuals[branch])
    un = said.get("un", said["text"])
    guided = un + scales.text[i] * (said["text"] - un) + scales.audio[i] * (said["full"] - said["text"])
    x = x + (sigmas[i + 1] - sigmas[i]) * (guided if i < until else said["full"])
    latents.append(x)
    kept.append(np.asarray(residuals["full"]))
  return latents, kept


def close(got, want):
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def skipping(name="std_dynamic", mesh=None, **changes) -> np.ndarray:
  denoiser, params, noise, conditions = case(name)
  transformer = denoiser.transformer
  if mesh is not None:
    devices = make_mesh(mesh, jax.devices()[:2])
    transformer = sharding.on_mesh(transformer.config, devices, attention=mesh.attention)
    params = sharding.shard_params(params, devices)
  made = Denoiser(transformer, dataclasses.replace(denoiser.settings, **changes))
  return np.asarray(CachedDenoiser(made).run(params, noise, conditions, RUNS))


@pytest.mark.parametrize("name", ["std_dynamic", "flash_unipc"])
def test_residuals_are_each_branch_s_own(name):
  """Guidance by text and by audio stays, which a residual that is shared by the branches would cancel."""
  close(skipping(name), by_hand(name)[0][-1])


@pytest.mark.parametrize("branches, mesh", [("batched", MeshConfig(data=2)),
                                            ("in_turn", MeshConfig(context=2, attention="allgather"))])
def test_skipped_steps_are_the_same_wherever_they_run(branches, mesh):
  close(skipping(branches=branches, mesh=mesh), by_hand()[0][-1])


@pytest.mark.parametrize("branches", ["batched", "in_turn"])
def test_a_branch_that_goes_on_keeps_its_residual_where_others_end(branches):
  """Guidance ends with step 1, which is skipped, as step 2 is."""
  close(skipping(branches=branches, guidance_until=0.4), by_hand(until=2)[0][-1])


def test_a_run_that_skips_nothing_is_the_plain_one_to_the_bit():
  denoiser, params, noise, conditions = case()
  cached = CachedDenoiser(denoiser)
  got = cached.run(params, noise, conditions, np.ones(5, bool))
  np.testing.assert_array_equal(got, denoiser.run(params, noise, conditions))
  assert cached._keep._cache_size() == cached._skip._cache_size() == 0


def test_evaluations_are_counted_by_branch():
  denoiser, *_ = case()
  made = Denoiser(denoiser.transformer, dataclasses.replace(denoiser.settings, guidance_until=0.6))
  assert [len(step) for step in cached_steps.branch_names(made.schedule)] == [3, 3, 3, 1, 1]
  assert cached_steps.branch_names(made.schedule)[0] == ("negative+null", "prompt+null", "prompt+voice")
  assert cached_steps.evaluations(made.schedule, None) == 11 and cached_steps.evaluations(made.schedule, RUNS) == 4


def test_windows_keep_their_own_residuals():
  """In groups of any size, on the host between steps or not, also where guidance ends; one window is as by hand."""
  denoiser, params, noise, conditions = case()
  denoiser = Denoiser(denoiser.transformer, dataclasses.replace(denoiser.settings, guidance_until=0.4))
  golden = golden_data.load("e2e", "std_dynamic")
  whole, noise = conditions_of(golden), channels_last(golden["init_noise"])[0]
  placed = windows.place(5, 2, 1)
  each = [Conditions(whole.text, whole.image, whole.audio[:, 8 * start:8 * stop - 6], whole.condition[:, :FRAMES],
                     whole.face_mask) for start, stop in placed]
  made = WindowDenoiser(denoiser, "blended")
  run = lambda made, params, batch: made.run(params, noise, LongPlan("blended", placed, 1, batch), each, runs=RUNS)
  one_by_one = run(made, params, 1)
  close(run(made, params, len(placed)), one_by_one)
  pair = make_mesh(MeshConfig(data=2), jax.devices()[:2])
  split = Denoiser(sharding.on_mesh(denoiser.transformer.config, pair), denoiser.settings)
  close(run(WindowDenoiser(split, "blended"), sharding.shard_params(params, pair), 2), one_by_one)
  alone = LongPlan("blended", windows.place(FRAMES, FRAMES, 1), 1, 1)
  close(made.run(params, noise[:FRAMES], alone, [conditions], runs=RUNS), by_hand(until=2)[0][-1][0])


def test_a_calibration_measures_residuals_and_outputs():
  denoiser, params, noise, conditions = case()
  latents, found = calibrating.Calibrator(denoiser).run(params, noise, conditions)
  close(latents, denoiser.run(params, noise, conditions))
  assert set(found.ratios) == {"negative+null", "prompt+null", "prompt+voice"}
  for values in (*found.ratios.values(), found.changes, found.outputs):
    assert np.isnan(values[0]) and np.isfinite(values[1:]).all()
  sizes = [np.linalg.norm(residual, axis=-1) for residual in by_hand(runs=(True,) * 5)[1]]
  want = [(after / before).mean() for before, after in itertools.pairwise(sizes)]
  np.testing.assert_allclose(found.ratios["prompt+voice"][1:], want, rtol=1e-4)


def test_a_calibration_compares_the_branches_that_both_steps_have():
  denoiser, params, noise, conditions = case()
  made = Denoiser(denoiser.transformer, dataclasses.replace(denoiser.settings, guidance_until=0.4))
  _, found = calibrating.Calibrator(made).run(params, noise, conditions)
  measured = {name: np.isfinite(values).tolist() for name, values in found.ratios.items()}
  assert measured == {"negative+null": [False, True, False, False, False], "prompt+null": [False, True, False, False, False],
                      "prompt+voice": [False] + [True] * 4}
  sizes = [np.linalg.norm(residual, axis=-1) for residual in by_hand(until=2, runs=(True,) * 5)[1]]
  np.testing.assert_allclose(found.ratios["prompt+voice"][2], (sizes[2] / sizes[1]).mean(), rtol=1e-4)


def test_programs_are_kept(tmp_path, monkeypatch):
  """A second start traces none of them."""
  monkeypatch.setattr(kept_programs, "folder", executables.open_folder(tmp_path / "executables", True, 1 << 30))
  denoiser, params, noise, conditions = case()
  run = lambda: CachedDenoiser(Denoiser(denoiser.transformer, denoiser.settings, "a network")).run(
      params, noise, conditions, RUNS)
  first = run()
  monkeypatch.setattr(Denoiser, "forward", None)
  np.testing.assert_array_equal(run(), first)
