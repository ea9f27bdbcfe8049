"""Where settings come from: command line > config > preset > model.json > code."""

import dataclasses
import json

from absl import logging
import numpy as np
from PIL import Image
import pytest
import soundfile

import emv3_jax
from emv3_jax import tasks, variants
from emv3_jax.commands import sample as run_sample
from emv3_jax.configs import tiny, train_sft_480p, train_tiny
from emv3_jax.diffusion.negative_phases import Phase
from emv3_jax.errors import InputError
from emv3_jax.io import digests, video_files
from emv3_jax.io.model_card import ModelCard, SamplingCard, read_model_card
from emv3_jax.runtime.config import build
from emv3_jax.sampling import inputs, resolution
from emv3_jax.sampling.cache_settings import CacheConfig
from emv3_jax.sampling.guidance_settings import guidance_of
from emv3_jax.sampling.model import load
from emv3_jax.sampling.presets import preset_of
from emv3_jax.sampling.resolution import MUST_MATCH, RECOMMENDED, resolve
from emv3_jax.sampling.settings import Request, SamplingConfig, field_names
from emv3_jax.training import settings as training
from emv3_jax.training.run.export import sampling_card
from tests.sampling.conftest import TINY, tiny_config

ASSETS = TINY.parents[1] / "emv3_jax/assets/tiny"


def card(tmp_path, sampling=None, variant="preview", name="mine") -> ModelCard:
  return ModelCard(tmp_path, variant, {}, name, sampling)


WISHES = SamplingCard({"allocation": "phased"}, {"steps": 10, "text_scale": 2.0, "shift": 3.0})


def test_each_place_gives_way_to_those_before_it(tmp_path):
  given = SamplingConfig(steps=7, audio_scale=1.5, preset="paper")
  found = resolve(given, "preview", card(tmp_path, WISHES), {"sampling.steps", "seed"})
  settings, origins = found.settings, found.origins
  assert (settings.steps, origins["steps"]) == (7, "command line")
  assert (settings.audio_scale, origins["audio_scale"]) == (1.5, "config")
  assert (settings.text_scale, origins["text_scale"]) == (3.0, "preset paper")
  assert (settings.shift, origins["shift"]) == (3.0, "model.json")
  assert (settings.allocation, origins["allocation"]) == ("phased", "model.json")
  assert (settings.solver, origins["solver"]) == ("euler", "code")
  assert set(origins) == set(field_names()) and not found.mismatches
  assert None not in dataclasses.astuple(settings)
  again = resolve(settings, "preview", card(tmp_path, WISHES))
  assert again.settings == settings, "resolving twice changes nothing"


def test_a_model_goes_by_its_own_name(tmp_path):
  config = emv3_jax.Config("theirs")
  for own, name in ((card(tmp_path), "mine"), (card(tmp_path, name=""), "theirs"), (None, "theirs")):
    assert resolution.resolve_config(config, own)[0].name == name


def test_phases_of_a_model_folder(tmp_path):
  phases = (Phase(until_step=2, weight=1.5, negative_prompt="jerky"), Phase())
  written = json.loads(json.dumps(dataclasses.asdict(SamplingCard({}, {"png": "phases", "png_phases": phases}))))
  settings = resolve(SamplingConfig(), "preview", card(tmp_path, SamplingCard(**written))).settings
  assert settings.png_phases == phases


def test_every_field_has_its_place():
  of_the_run = set(field_names()) - set(RECOMMENDED) - set(MUST_MATCH)
  assert of_the_run == {"attention", "branches", "token_blocks"}
  assert all(set(variants.of(name).settings) == set(field_names()) for name in variants.names())
  paper = preset_of("paper", "preview")
  assert (paper["text_scale"], paper["audio_scale"]) == (3, 9)


@pytest.mark.parametrize("name, steps", [("head", 5), ("human", 25)])
@pytest.mark.parametrize("variant, scales, rows", [("preview", (4.0, 2.9), 3), ("flash", (1.0, 3.0), 2)])
def test_presets_of_the_paper_s_numbers_of_steps_name_their_guidance(name, steps, variant, scales, rows, tmp_path):
  """Whatever the model recommends."""
  other = SamplingCard({}, {"steps": 9, "text_scale": 1.0, "audio_scale": 7.0, "guidance_until": 0.5, "png": "off",
                            "released_switch": True, "neg_scale": 1.0})
  settings = resolve(SamplingConfig(preset=name), variant, card(tmp_path, other)).settings
  assert (settings.steps, settings.text_scale, settings.audio_scale) == (steps, *scales)
  schedule = guidance_of(settings, variant).schedule(steps)
  assert {len(step.branches) for step in schedule} == {rows}
  assert settings.png == ("phases" if (name, variant) == ("human", "preview") else "off")
  assert settings.cache.kind == ("teacache" if name == "human" else "none")


def test_a_step_cache_is_the_preset_s_unless_another_is_asked_for():
  ask = lambda **cache: resolve(SamplingConfig(preset="human", cache=CacheConfig(**cache)), "preview", None,
                                {"sampling.cache.threshold"})
  found = ask(threshold=0.3)
  assert found.settings.cache == CacheConfig("teacache", 0.3, 5, 1000, 0.0)
  origins = {name: origin for name, origin in found.origins.items() if name.startswith("cache.")}
  assert origins == {"cache.kind": "preset human", "cache.threshold": "command line", "cache.skip_start": "code",
                     "cache.max_skips": "code", "cache.retention": "code", "cache.file": "code"}
  assert ask(kind="magcache").settings.cache == CacheConfig("magcache", 0.12, 1, 4, 0.2)
  assert ask(kind="none").settings.cache == CacheConfig("none")


def test_a_setting_that_must_match_the_training_is_held(tmp_path):
  with pytest.raises(InputError, match="'released' \\(command line\\).*trained with 'phased'"):
    resolve(SamplingConfig(allocation="released"), "preview", card(tmp_path, WISHES),
            {"sampling.allocation"})
  allowed = SamplingConfig(allocation="released", allow_mismatch=True)
  found = resolve(allowed, "preview", card(tmp_path, WISHES))
  assert found.settings.allocation == "released"
  assert found.mismatches == {"allocation": {"model": "phased", "used": "released"}}


@pytest.mark.parametrize("wishes, said", [
    (SamplingCard({}, {"stepz": 3}), "did you mean 'steps'"),
    (SamplingCard({}, {"steps": "3"}), "expected int"),
    (SamplingCard({}, {"png_phases": 3}), "png_phases is 3; expected a list"),
    (SamplingCard({}, {"png_phases": [3]}), "png_phases is 3; expected a group"),
    (SamplingCard({}, {"png_phases": [{"weight": -1.0}]}), "weight is -1.0"),
    (SamplingCard({"steps": 3}, {}), "known: allocation"),
    (SamplingCard({}, {"attention": "xla"}), "does not know"),
])
def test_a_model_json_that_is_wrong(tmp_path, wishes, said):
  with pytest.raises(InputError, match=said):
    resolve(SamplingConfig(), "preview", card(tmp_path, wishes))


@pytest.mark.parametrize("name, value", [
    ("steps", 0), ("steps", 1001), ("shift", 0.0), ("shift", float("nan")), ("solver_shift", -1.0),
    ("text_scale", float("inf")), ("audio_scale", float("nan")), ("neg_scale", -0.5),
    ("neg_steps", -2), ("audio_gain", float("-inf")), ("riflex_k", -1), ("token_blocks", -1),
    ("max_frames", -3), ("max_area", 0), ("enlarge", 0), ("enlarge", 65)])
def test_settings_out_of_range_are_refused(name, value):
  with pytest.raises(InputError, match=f"sampling.{name} is .*; (it must be|a finite number)"):
    SamplingConfig(**{name: value})


def test_a_riflex_frequency_that_the_network_does_not_have():
  with pytest.raises(InputError, match="riflex_k is 99; this network has .* temporal frequencies"):
    load(config=tiny_config("sampling.riflex_k=99"))


def test_presets_that_are_none(tmp_path):
  with pytest.raises(InputError, match="known: released, paper"):
    SamplingConfig(preset="papr")
  with pytest.raises(InputError, match="is for preview, this model is flash"):
    resolve(SamplingConfig(preset="paper"), "flash")


def test_a_folder_of_the_first_release_is_told(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    resolution.warn_of_old_card(card(tmp_path))
  assert "version 0.1" in caplog.text and "allocation" in caplog.text


def test_a_trained_model_says_how_it_was_trained(tmp_path):
  config = build(training.Config, train_sft_480p.get_config())
  made = sampling_card(dataclasses.replace(config, checkpoint="untrained"))
  assert made.must_match == {"allocation": "phased", "face_mask": "moving"} and made.recommended == {}
  assert made.precision["transformer"] == {"params": "bfloat16", "compute": "bfloat16"}
  settings = resolve(SamplingConfig(), "preview", card(tmp_path, made)).settings
  assert (settings.allocation, settings.steps) == ("phased", 25)
  with pytest.raises(InputError, match="loss.allocation"):
    dataclasses.replace(config, sampling=SamplingConfig(allocation="released"))
  # What it starts from recommends, where the config does not.
  config = dataclasses.replace(build(training.Config, train_tiny.get_config()),
                               checkpoint=str(ASSETS / "model"), sampling=SamplingConfig(steps=3))
  made = sampling_card(config)
  assert made.recommended["steps"] == 3 and made.recommended["audio_scale"] == 1.8


def test_the_default_and_its_training_agree():
  """The folder that ships recommends what configs/train_tiny.py writes."""
  made = sampling_card(build(training.Config, train_tiny.get_config()))
  shipped = read_model_card(ASSETS / "model")
  assert shipped.name == "tiny" and shipped.sampling.must_match.items() <= made.must_match.items()
  assert shipped.sampling.recommended == made.recommended
  assert {name: value["compute"] for name, value in shipped.sampling.precision.items()} == {
      name: value["compute"] for name, value in made.precision.items()}
  assert all(part.digest for part in shipped.components.values())
  digests.verify_digests(ASSETS / "model")


def test_load_takes_all_from_the_folder():
  model = emv3_jax.load(ASSETS / "model")
  settings = model.config.sampling
  assert model.config.name == "tiny"
  assert (settings.steps, settings.text_scale, settings.allocation, settings.enlarge) == (
      10, 2.0, "phased", 6)
  assert model.config.precision.transformer.compute == "float32"
  assert model.denoiser().settings == settings
  with_config = load(config=build(emv3_jax.Config, tiny.get_config()))
  assert dataclasses.replace(with_config.config.sampling, attention="auto") == settings


@pytest.fixture(scope="module")
def default():
  return load(config=build(emv3_jax.Config, tiny.get_config()))


@pytest.mark.parametrize("height, width, task", [
    (64, 64, "i2v"), (384, 384, "lipsync"), (90, 160, "i2v"), (720, 400, "lipsync"), (0, 0, "t2v")])
def test_the_default_works_at_its_own_size_whatever_comes(default, tmp_path, height, width, task):
  """Its own output, six times as large, can be its source."""
  rng = np.random.default_rng(0)
  soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(np.arange(3200) / 10), 16000)
  asked = {"audio": tmp_path / "a.wav", "task": task}
  if task != "t2v":
    asked["face_box"] = f"0,{height},0,{width}"
    asked["image" if task == "i2v" else "video"] = tmp_path / ("a.png" if task == "i2v" else "a.mp4")
    pictures = rng.integers(0, 256, (6, height, width, 3), np.uint8)
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    video_files.write_video(tmp_path / "a.mp4", pictures)
  found = inputs.read_inputs(Request(**asked), default.config, default.tokenizer_path)
  assert found.size == (64, 64) and found.video.shape == (5, 64, 64, 3)


def test_the_default_has_a_name_and_says_what_it_knows(caplog, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  model = emv3_jax.load("tiny")
  assert model.folder == ASSETS / "model" and model.config.sampling.height == 64
  assert caplog.text.count("generates only drawn puppets") == 1
  assert "docs/conversion.md" in caplog.text
  assert run_sample.find_card("tiny", model.config).name == "tiny"
  (tmp_path / "tiny").mkdir()
  with pytest.raises(InputError, match="tiny has no model.json"):
    emv3_jax.load("tiny")


def test_print_config_names_origins(capsys):
  flags = [f"--config={TINY}", "--config.sampling.steps=3", "--config.seed=9", "--print_config"]
  assert run_sample.main(flags) == 0
  told = json.loads(capsys.readouterr().out)
  origins = told.pop("origins")
  assert told["sampling"]["steps"] == 3 and told["sampling"]["text_scale"] == 2.0
  assert origins["sampling.steps"] == "command line" and origins["seed"] == "command line"
  assert origins["sampling.text_scale"] == "model.json"
  assert origins["sampling.attention"] == "config" and origins["sampling.riflex_k"] == "code"
  assert origins["keep_parts"] == "config" and origins["face_detector"] == "code"


@pytest.mark.parametrize("variant, settings, request_, said", [
    ("flash", {}, Request("a", negative_prompt="x"), "flash is not guided by text"),
    ("preview", {"text_scale": 1.0}, Request("a", negative_prompt="x"), "text_scale=1"),
    ("flash", {}, Request("a", face_box="1,2,3,4"), "flash has no face mask"),
    ("preview", {}, Request("a", task="t2v", face_box="auto"), "t2v has no picture"),
    ("preview", {}, Request("a", paste=False), "no source to paste"),
])
def test_what_would_not_be_used_is_refused(variant, settings, request_, said):
  with pytest.raises(InputError, match=said):
    inputs._check_used(request_, tasks.of(request_.task), variants.of(variant),
                       SamplingConfig(**settings).with_defaults(variant))
  used = Request("a", task="lipsync", face_box="1,2,3,4", paste=False)
  inputs._check_used(used, tasks.of("lipsync"), variants.of(variant), SamplingConfig().with_defaults(variant))
