"""Names with words before, in and round them, as training code and other programs write them."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert import plan as plan_lib
from convert.importing import convert
from convert.sources import Checkpoint, find
from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import LazyArray, read_model_card
from tests.convert.test_conversion import official


@pytest.fixture
def identify(monkeypatch):
  """identify(tensors) -> Plan, as if a file had these."""
  def run(tensors, given=None, key=""):
    lazy = {name: LazyArray(np.shape(value), np.asarray(value).dtype, None)
            for name, value in tensors.items()}
    monkeypatch.setattr(plan_lib, "open_tensors", lambda files, notes: lazy)
    return plan_lib.identify(Checkpoint("test", (), {}, key), given=given)

  return run


def under(prefix, tensors):
  return {f"{prefix}{name}": value for name, value in tensors.items()}


def test_a_network_inside_that_of_another_task(identify, rng):
  """wav2vec2 as speech recognition has it, alone or wrapped once more."""
  tensors, given = official("wav2vec2", rng)
  for prefix in ("wav2vec2.", "module.wav2vec2."):
    assert not any(identify(under(prefix, tensors), given).problems.values()), prefix


@pytest.mark.parametrize("prefix", [
    "module.", "_orig_mod.", "model.", "model.diffusion_model.", "transformer.", "diffusion_model.",
    "module._orig_mod.", "_orig_mod.module.", "state_dict.module.model.", "ema.", "generator.model.",
    "_forward_module.module."])
def test_words_before_the_names_of_a_network_are_taken_off(identify, rng, prefix):
  for name in ("preview", "clip", "vae"):
    tensors, given = official(name, rng)
    plan = identify(under(prefix, tensors), given)
    assert (plan.component.name, plan.layout.variant) == (next(iter(given)), plan.layout.variant)
    assert not any(plan.problems.values()), plan.problems
    assert set(plan.tensors) == set(tensors)


def test_words_before_another_library_s_names_are_taken_off(identify, rng):
  for name, layout in (("base", "diffusers"), ("umt5", "transformers"), ("clip", "transformers")):
    tensors, given = official(name, rng, layout)
    plan = identify(under("module.", tensors), given)
    assert plan.layout.name == layout and not any(plan.problems.values())
  tensors, given = official("wav2vec2", rng)
  plan = identify(under("module.wav2vec2.", tensors) | {"module.lm_head.weight": np.ones((3, 4))}, given)
  assert plan.unused == {"lm_head.*": 1} and not any(plan.problems.values())


@pytest.mark.parametrize("word", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_words_in_the_names_of_layers_are_taken_out(identify, rng, word):
  tensors, given = official("preview", rng)
  wrapped = {name.replace("blocks.0.", f"blocks.0.{word}."): value for name, value in tensors.items()}
  assert wrapped.keys() != tensors.keys()
  assert not any(identify(wrapped, given).problems.values())


def test_comfyui_s_text_encoder_brings_its_tokenizer(identify, rng):
  tensors, given = official("umt5", rng, "transformers")
  plan = identify(tensors | {"spiece_model": np.zeros(99, np.uint8)}, given)
  assert plan.unused == {"spiece_model": 1} and not any(plan.problems.values())
  assert plan.dtype == "bfloat16"


def test_clip_of_transformers_5_has_no_vision_model_before_its_names(identify, rng):
  tensors, given = official("clip", rng, "transformers")
  alone = {name.removeprefix("vision_model."): value for name, value in tensors.items()}
  assert alone.keys() != tensors.keys() and "pre_layrnorm.weight" in alone
  alone |= {"post_layernorm.weight": np.ones(32, np.float32),
            "encoder.layers.3.layer_norm1.weight": np.ones(32, np.float32)}
  plan = identify(alone, given)
  assert (plan.component.name, plan.layout.name) == ("image_encoder", "transformers")
  assert plan.unused == {"vision_model.post_layernorm.*": 1, "vision_model.encoder.layers.3.*": 1}
  assert not any(plan.problems.values())


def test_of_several_sets_of_one_network_the_user_chooses(identify, rng):
  tensors, given = official("preview", rng)
  both = under("generator.", tensors) | under("generator_ema.", tensors)
  with pytest.raises(InputError, match="transformer more than once: its names begin with 'generator' "
                     "and with 'generator_ema'.\nChoose one: --key=generator_ema"):
    identify(both, given)
  assert not any(identify(both, given, key="generator_ema").problems.values())
  assert not any(identify(under("theirs.x.", tensors), given, key="theirs.x").problems.values())
  with pytest.raises(InputError, match="no tensors below 'ema'; its names begin with generator, gen"):
    identify(both, given, key="ema")


def test_a_file_of_a_whole_pipeline_is_ambiguous(identify, rng):
  (one, given), (other, more) = official("preview", rng), official("vae", rng)
  with pytest.raises(InputError, match=r"names of vae \(official names\) and of transformer.\nGive one"):
    identify(under("model.diffusion_model.", one) | under("first_stage_model.", other), given | more)


def test_a_lora_is_told_from_a_network(identify):
  with pytest.raises(InputError, match="it is a LoRA, a difference to the weights"):
    identify({f"diffusion_model.blocks.0.self_attn.q.lora_{part}.weight": np.ones((3, 3))
              for part in "AB"})


def test_a_chosen_set_is_recorded_and_is_another_source(tmp_path, rng):
  tensors, given = official("umt5", rng)
  save_file(under("ema.", tensors) | under("model.", tensors), tmp_path / "in.safetensors")
  source = find(str(tmp_path / "in.safetensors"))
  chosen = {key: dataclasses.replace(source, checkpoints=tuple(
      dataclasses.replace(found, key=key) for found in source.checkpoints)) for key in ("ema", "model")}
  convert(chosen["ema"], tmp_path / "m", given=given)
  assert read_model_card(tmp_path / "m").components["text_encoder"].sources[0]["key"] == "ema"
  assert "already in" in convert(chosen["ema"], tmp_path / "m", given=given)[0]
  with pytest.raises(InputError, match="already has a text_encoder"):
    convert(chosen["model"], tmp_path / "m", given=given)
