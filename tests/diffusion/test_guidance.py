"""Guidance branches, scales and mixing; against recorded sampling runs."""

import numpy as np
import pytest

from emv3_jax.diffusion.guidance import (
  FLASH,
  PREVIEW,
  Branch,
  Guidance,
  dynamic_scale,
  negative_prompt_scales,
)
from emv3_jax.errors import InputError
from tests import golden_data


def test_three_branches_mix(rng):
  un, text, full = rng.normal(size=(3, 2, 5)).astype(np.float32)
  velocities = np.stack([un, text, full])
  np.testing.assert_allclose(PREVIEW.mix(velocities, 4.0, 2.9),
                             un + 4.0 * (text - un) + 2.9 * (full - text), atol=1e-6)
  np.testing.assert_allclose(PREVIEW.mix(velocities, 1.0, 1.0), full, atol=1e-6)
  np.testing.assert_allclose(FLASH.mix(velocities[1:], 6.0, 3.0), text + 3.0 * (full - text),
                             atol=1e-6)


def test_branches():
  un, text, full = Branch("negative", "null"), Branch("prompt", "null"), Branch("prompt", "voice")
  assert PREVIEW.branches == (un, text, full)
  assert FLASH.branches == (text, full)
  off = Guidance(text_scale=1.0)
  assert off.branches == (full,)
  np.testing.assert_array_equal(off.mix(np.ones((1, 3)), 1.0, 2.9), np.ones(3))
  with pytest.raises(ValueError, match="2 velocities for 3"):
    PREVIEW.mix(np.ones((2, 3)), 4.0, 2.9)


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
    guided = guidance.mix(case[f"call{i:03d}.out"], scales.text[i], scales.audio[i])
    golden_data.check("guidance", guided, case[f"step{i:03d}.guided"][0], 1e-6)
    if i < 3:  # recorded where it changes
      seen = case[f"call{i:03d}.text0"]
      golden_data.check("guidance", scales.negative[i] * negative[:len(seen)], seen, 1e-6)


def test_recorded_flash_run():
  case = golden_data.load("guidance", "flash_unipc")
  scales = FLASH.scales(4)
  for i in range(4):
    full, text = (case[f"call{2 * i + k:03d}.out"] for k in (0, 1))
    guided = FLASH.mix(np.concatenate([text, full]), scales.text[i], scales.audio[i])
    golden_data.check("guidance", guided, case[f"step{i:03d}.guided"][0], 1e-6)
