"""Whole sampling runs of the reference pipelines: guidance, solver and network together."""

import dataclasses

import jax
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.models import rope, transformer
from emv3_jax.sampling.denoise import Conditions, Denoiser
from emv3_jax.sampling.settings import SamplingConfig
from tests import golden_data
from tests.models import official_weights

TINY = transformer.TransformerConfig(
    dim=96, ffn_dim=192, num_heads=3, num_layers=2, freq_dim=64, text_dim=64, text_tokens=64,
    image_dim=64)
FLASH = dataclasses.replace(TINY, variant="flash", audio_dim=16, audio_layers=3, audio_hidden=32)
SOLVERS = {"Flow": "euler", "Flow_Unipc": "unipc", "Flow_DPM++": "dpmpp"}


def channels_last(video: np.ndarray) -> np.ndarray:
  return np.moveaxis(video, 1, -1)


def settings_of(meta: dict, flash: bool) -> SamplingConfig:
  args = meta["args"]
  return SamplingConfig(
      solver=SOLVERS[meta["scheduler"]], steps=args["num_inference_steps"],
      shift=float(args["shift"]), solver_shift=meta["scheduler_config_shift"],
      text_scale=args["guidance_scale"], audio_scale=args["audio_guidance_scale"],
      dynamic_text=args.get("use_dynamic_cfg", False),
      dynamic_audio=args.get("use_dynamic_acfg", False),
      neg_scale=1.0 if flash else args["neg_scale"], neg_steps=args["neg_steps"],
      audio_gain=args["audio_scale"])


def conditions_of(case: golden_data.Case) -> Conditions:
  def text(name):
    states = case[f"text.{name}.hidden"] * case[f"text.{name}.attention_mask"][..., None]
    return states.astype(np.float32)

  names = {"prompt": "prompt"}
  if "text.negative_prompt.hidden" in case.arrays:
    names["negative"] = "negative_prompt"
  known = np.concatenate([case["mask_latents"], case["masked_video_latents"]], axis=1)
  mask = case.arrays.get("in.ip_mask")
  return Conditions(
      text={ours: text(theirs) for ours, theirs in names.items()}, image=case["clip_context"],
      audio=case["in.audio_embeds"], condition=channels_last(known),
      face_mask=None if mask is None else mask[:1])


def denoiser_and_params(case: golden_data.Case, **changes) -> tuple[Denoiser, dict]:
  flash = "flash" in case.name
  config = FLASH if flash else TINY
  weights = golden_data.load("e2e", f"weights_transformer_{config.variant}").arrays
  settings = dataclasses.replace(settings_of(case.meta, flash), **changes)
  return Denoiser(sharding.on_mesh(config), settings), official_weights.convert(weights)


@golden_data.cases("e2e", "std_*")
def test_preview_run(name):
  check_run(golden_data.load("e2e", name))


@golden_data.cases("e2e", "flash_*")
def test_flash_run(name):
  check_run(golden_data.load("e2e", name))


def check_run(case: golden_data.Case):
  denoiser, params = denoiser_and_params(case)
  np.testing.assert_allclose(denoiser.solver.schedule.taus, case["step.t"], rtol=1e-6)
  latents = denoiser.run(params, channels_last(case["init_noise"]), conditions_of(case))
  golden_data.check("sampling run", latents, channels_last(case["final"]), 1e-4)


@pytest.mark.parametrize("name, module", [
    ("std_dynamic", "transformer preview"), ("flash_unipc", "transformer flash")])
def test_first_call_of_a_run(name, module):
  case = golden_data.load("e2e", name)
  denoiser, params = denoiser_and_params(case)
  conditions, noise = conditions_of(case), channels_last(case["init_noise"])
  recorded = case["call000.out"][-1:] if name == "std_dynamic" else case["call000.out"]

  @jax.jit
  def forward(params):
    model = denoiser.transformer.network.bind(params)
    context = model.project(conditions.text["prompt"], conditions.image, conditions.audio)
    return model(noise, conditions.condition, denoiser.tables.sinusoid[:1], context,
                 rope=rope.rope_table((5, 4, 6), 32), face_mask=conditions.face_mask)

  golden_data.check(module, forward(params), channels_last(recorded), 1e-5)


@pytest.mark.parametrize("name", ["std_dynamic", "flash_unipc"])
def test_branches_in_turn_give_the_batched_numbers(name):
  case = golden_data.load("e2e", name)
  denoiser, params = denoiser_and_params(case, branches="in_turn")
  latents = denoiser.run(params, channels_last(case["init_noise"]), conditions_of(case))
  golden_data.check("sampling run, branches in turn", latents, channels_last(case["final"]), 1e-4)


def test_one_program_serves_all_steps():
  case = golden_data.load("e2e", "std_dynamic")
  denoiser, params = denoiser_and_params(case)
  denoiser.run(params, channels_last(case["init_noise"]), conditions_of(case))
  assert denoiser._step._cache_size() == 1


def test_clips_of_a_batch_do_not_influence_each_other():
  case = golden_data.load("e2e", "std_dynamic")
  denoiser, params = denoiser_and_params(case, steps=2)
  conditions = conditions_of(case)
  pair = jax.tree.map(lambda x: np.concatenate([x, x[:, ::-1] if x.ndim > 1 else x]),
                      dataclasses.asdict(conditions))
  noise = channels_last(case["init_noise"])
  both = denoiser.run(params, np.concatenate([noise, noise[:, ::-1]]), Conditions(**pair))
  alone = denoiser.run(params, noise, conditions)
  np.testing.assert_allclose(both[0], alone[0], rtol=0, atol=2e-5 * float(np.abs(alone).max()))
  assert np.abs(both[1] - both[0]).max() > 0.1
