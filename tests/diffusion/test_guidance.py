"""Guidance branches, scales and mixing; against recorded sampling runs."""

import dataclasses

import numpy as np
import pytest

from emv3_jax.diffusion.guidance import (
  FLASH,
  FULL_ALONE,
  PREVIEW,
  Branch,
  Branches,
  Guidance,
  dynamic_scale,
  largest,
  mix,
  negative_prompt_scales,
)
from emv3_jax.diffusion.negative_phases import Phase
from emv3_jax.errors import InputError
from tests import golden_data

UN, TEXT, FULL = Branch("negative", "null"), Branch("prompt", "null"), Branch("prompt", "voice")
ALL, PAIR = Branches((UN, TEXT, FULL)), Branches((TEXT, FULL))
CONSTANT = Guidance(dynamic_text=False, dynamic_audio=False, released_switch=False, neg_scale=1.0)


def test_branches_mix(rng):
  un, text, full = velocities = rng.normal(size=(3, 2, 5)).astype(np.float32)
  np.testing.assert_allclose(mix(ALL, velocities, 4.0, 2.9),
                             un + 4.0 * (text - un) + 2.9 * (full - text), atol=1e-6)
  np.testing.assert_allclose(mix(ALL, velocities, 1.0, 1.0), full, atol=1e-6)
  np.testing.assert_allclose(mix(PAIR, velocities[1:], 6.0, 3.0), text + 3.0 * (full - text),
                             atol=1e-6)
  np.testing.assert_array_equal(mix(FULL_ALONE, velocities[2:], 1.0, 2.9), full)
  with pytest.raises(ValueError, match="2 velocities for 3"):
    mix(ALL, np.ones((2, 3)), 4.0, 2.9)


def test_branches():
  assert PREVIEW.schedule(1)[0].branches == ALL
  assert FLASH.schedule(1)[0].branches == PAIR
  off = dataclasses.replace(PREVIEW, text_scale=1.0).schedule(2)
  assert [(step.branches, step.text_scale, step.audio_scale) for step in off] == [((FULL,), 1, 1)] * 2


@pytest.mark.parametrize("g, g_a, run", [
    (4.0, 2.9, (UN, TEXT, FULL)), (1.0, 2.9, (TEXT, FULL)), (3.0, 3.0, (UN, FULL)), (4.0, 1.0, (UN, TEXT, FULL)),
    (1.0, 1.0, (FULL,)), (4.0, 0.0, (UN, TEXT)), (0.5, 2.9, (UN, TEXT, FULL)), (1.0, 0.0, (TEXT,)), (0.0, 0.0, (UN,))])
def test_a_branch_without_weight_does_not_run(g, g_a, run, rng):
  step, = dataclasses.replace(CONSTANT, text_scale=g, audio_scale=g_a).schedule(1)
  assert step.branches == run
  velocities = rng.normal(size=(3, 7))
  un, text, full = velocities
  np.testing.assert_allclose(mix(step.branches, velocities[[ALL.index(branch) for branch in run]], g, g_a),
                             un + g * (text - un) + g_a * (full - text), atol=1e-12)


def test_without_the_released_switch_small_text_scales_follow_the_equation():
  flash = dataclasses.replace(FLASH, text_scale=1.0)
  assert flash.schedule(1)[0].branches == FULL_ALONE
  assert dataclasses.replace(flash, released_switch=False).schedule(1)[0].branches == PAIR
  falling = dataclasses.replace(CONSTANT, text_scale=1.0, dynamic_text=True).schedule(3)
  assert [step.branches for step in falling] == [PAIR, ALL, ALL]  # 1, then less


@pytest.mark.parametrize("share, steps, guided", [
    (1.0, 5, 5), (0.5, 4, 2), (0.5, 5, 3), (0.12, 25, 3), (0.07, 100, 7), (0.001, 5, 1)])
def test_guidance_in_a_share_of_the_steps(share, steps, guided):
  schedule = dataclasses.replace(PREVIEW, until=share).schedule(steps)
  whole = PREVIEW.schedule(steps)
  assert schedule[:guided] == whole[:guided]
  assert all(step == (FULL_ALONE, 1, 1, 0, 1) for step in schedule[guided:])
  assert largest(schedule) == ALL


def test_keys_and_values_are_used_again_where_nothing_changes():
  first, second, third, fourth = PREVIEW.schedule(4)
  assert first.context != second.context and third.context == fourth.context  # its factor builds up
  one, other = (step._replace(branches=PAIR) for step in (first, second))
  assert one.context == other.context  # without a negative prompt


def test_scales_of_the_released_scripts():
  preview, flash = PREVIEW.scales(4), FLASH.scales(4)
  np.testing.assert_allclose(preview.text, [4.0, 2.2652612, 2.0048153, 2.0000048], rtol=1e-6)
  np.testing.assert_allclose(preview.audio, 0.725 * preview.text, rtol=1e-6)
  np.testing.assert_array_equal(preview.negative, [1.5, 2.25, 3.375, 3.375])
  np.testing.assert_array_equal(flash.audio, [3, 3, 3, 3])
  np.testing.assert_array_equal(flash.negative, [1, 1, 1, 1])


def test_dynamic_scale_falls_to_half():
  scales = [dynamic_scale(9.0, i, 25) for i in range(26)]
  assert scales[0] == 9.0 and scales[25] == 4.5
  assert all(a >= b for a, b in zip(scales, scales[1:], strict=False))


def test_each_scale_has_its_own_decay():
  for dynamic_text, dynamic_audio in ((True, False), (False, True)):
    scales = Guidance(dynamic_text=dynamic_text, dynamic_audio=dynamic_audio).scales(5)
    assert (np.ptp(scales.text) > 0, np.ptp(scales.audio) > 0) == (dynamic_text, dynamic_audio)


def test_negative_scale_from_the_first_step_or_never():
  np.testing.assert_array_equal(negative_prompt_scales(2.0, 0, 3), [2, 2, 2])
  np.testing.assert_array_equal(negative_prompt_scales(2.0, -1, 3), [1, 1, 1])


@pytest.mark.parametrize("changes, message", [
    ({"mode": "both"}, "'both'; known: text_audio, audio"),
    ({"audio_scale": float("nan")}, "audio_scale is nan"),
    ({"neg_steps": -2}, "neg_steps is -2"),
    ({"mode": "audio"}, "no negative prompt"),
    ({"until": 0.0}, "until is 0.0; it must be above 0, at most 1"),
    ({"until": 1.1}, "until is 1.1"),
    ({"phases": (Phase(),)}, "phases, and neg_scale 1.5"),
])
def test_errors(changes, message):
  with pytest.raises(InputError, match=message):
    Guidance(**changes)


def test_recorded_preview_run():
  case = golden_data.load("guidance", "std_dynamic")
  args = case.meta["args"]
  guidance = Guidance("text_audio", args["guidance_scale"], args["audio_guidance_scale"],
                      args["use_dynamic_cfg"], args["use_dynamic_acfg"],
                      args["neg_scale"], args["neg_steps"])
  steps = args["num_inference_steps"]
  scales = guidance.scales(steps)
  negative = case["text.negative_prompt.hidden"][0]
  for i in range(steps):
    guided = mix(ALL, case[f"call{i:03d}.out"], scales.text[i], scales.audio[i])
    golden_data.check("guidance", guided, case[f"step{i:03d}.guided"][0], 1e-6)
    if i < 3:  # recorded where it changes
      seen = case[f"call{i:03d}.text0"]
      golden_data.check("guidance", scales.negative[i] * negative[:len(seen)], seen, 1e-6)


def test_recorded_flash_run():
  case = golden_data.load("guidance", "flash_unipc")
  scales = FLASH.scales(4)
  for i in range(4):
    full, text = (case[f"call{2 * i + k:03d}.out"] for k in (0, 1))
    guided = mix(PAIR, np.concatenate([text, full]), scales.text[i], scales.audio[i])
    golden_data.check("guidance", guided, case[f"step{i:03d}.guided"][0], 1e-6)
