"""The fingerprint: every ingredient changes it, nothing else does; no field is forgotten."""

import dataclasses
import os
import pathlib
import shutil

import numpy as np
import pytest

from emv3_jax.components.config import COMPONENTS
from emv3_jax.diffusion.negative_phases import Phase
from emv3_jax.errors import InputError
from emv3_jax.io import checkpoints
from emv3_jax.io.model_card import ComponentCard, ModelCard
from emv3_jax.models.precision import Precision
from emv3_jax.sampling import clip
from emv3_jax.sampling import fingerprint as lib
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.settings import Config, Request, SamplingConfig
from tests.sampling.conftest import tiny_config

PINNED = "5e4d553c0c4cda6c99f3982f3c9ac0b4be2a4ff450caec061abbca653b3a6bc7"
FILES = ("audio", "image", "last_image", "video", "box.npy", "yunet.onnx", "tokenizer.json")


@pytest.fixture(scope="module")
def config() -> Config:
  """Every setting is said and has an effect."""
  said = ("solver=unipc", "text_scale=3.0", "neg_scale=1.5", "dynamic_text=False",
          "dynamic_audio=False")
  settings = tiny_config(*(f"sampling.{setting}" for setting in said))
  return Model(settings, None, parts=()).config


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """One file of each kind; what is in them is not looked at."""
  for name in FILES:
    (tmp_path / name).write_text(f"contents of {name}")
  return tmp_path


def request_in(folder, task="i2v", **changes) -> Request:
  named = {"i2v": ("image",), "t2v": (), "flf2v": ("image", "last_image"), "lipsync": ("video",)}
  paths = {name: folder / name for name in ("audio", *named[task])}
  return Request(**{**paths, "task": task, "prompt": "a woman speaks", **changes})


def model_of(config: Config, **settings) -> Model:
  return Model(changed(config, **settings), None, parts=())


def changed(config, **settings):
  """`config` with fields set by their paths, `__` for the dots."""
  groups, fields = {}, {}
  for path, value in settings.items():
    name, _, rest = path.partition("__")
    if rest:
      groups.setdefault(name, {})[rest] = value
    else:
      fields[name] = value
  fields |= {name: changed(getattr(config, name), **inner) for name, inner in groups.items()}
  return dataclasses.replace(config, **fields)


def of(config, request) -> str:
  return lib.fingerprint(model_of(config), request)


def leaves(config, path: str) -> set[str]:
  found = set()
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    found |= (leaves(value, f"{path}.{field.name}") if dataclasses.is_dataclass(value)
              else {f"{path}.{field.name}"})
  return found


def test_every_field_is_known_to_decide_or_not():
  """A new field of a config or request has to be entered in one of the tables of fingerprint.py."""
  decide = {path for paths in (*lib.VALUES.values(), *lib.FILES.values())
            for path in ([paths] if isinstance(paths, str) else paths)}
  fields = leaves(Config("x"), "config") | leaves(Request("x"), "request")
  assert decide | lib.EXCLUDED.keys() == fields
  assert not decide & lib.EXCLUDED.keys()


def test_a_fixed_example(folder, monkeypatch):
  """Whoever changes the fingerprint of what is released makes all clips of all manifests again; where
  other pixels are meant, raise NUMERICS."""
  monkeypatch.setattr(Model, "digest", lambda _, name: f"digest of {name}")
  sampling = SamplingConfig(
      solver="unipc", steps=25, shift=5.0, solver_shift=5.0, text_scale=4.0, audio_scale=2.9,
      dynamic_text=True, dynamic_audio=True, neg_scale=1.5, neg_steps=2, negative_prompt="blurred",
      audio_gain=1.0, allocation="phased", riflex_k=0, max_area=768 * 768, height=0, width=0,
      enlarge=1)
  example = Config("example", tokenizer=str(folder / "tokenizer.json"), sampling=sampling)
  request = request_in(folder, seed=7, seconds=2.5, face_box="1,2,3,4")
  assert of(example, request) == PINNED


DECIDING = {  # what changes: (task, change of the request, change of the config)
    "task": ("t2v", {}, {}),
    "prompt": ("i2v", {"prompt": "a man speaks"}, {}),
    "seed": ("i2v", {"seed": 5}, {}),
    "negative prompt": ("i2v", {"negative_prompt": "blurred"}, {}),
    "seconds": ("i2v", {"seconds": 1.5}, {}),
    "face box": ("i2v", {"face_box": "1,2,3,5"}, {}),
    "no face box": ("i2v", {"face_box": "none"}, {}),
    "config's seed": ("i2v", {}, {"seed": 5}),
    "config's negative prompt": ("i2v", {}, {"sampling__negative_prompt": "blurred"}),
    "solver": ("i2v", {}, {"sampling__solver": "dpmpp"}),
    "steps": ("i2v", {}, {"sampling__steps": 3}),
    "shift": ("i2v", {}, {"sampling__shift": 3.0}),
    "solver's shift": ("i2v", {}, {"sampling__solver_shift": 3.0}),
    "text scale": ("i2v", {}, {"sampling__text_scale": 2.0}),
    "no guidance": ("i2v", {}, {"sampling__text_scale": 1.0}),
    "audio scale": ("i2v", {}, {"sampling__audio_scale": 2.0}),
    "guidance by audio alone": ("i2v", {}, {"sampling__text_scale": 1.0, "sampling__released_switch": False}),
    "a share of the steps": ("i2v", {}, {"sampling__guidance_until": 0.5}),
    "phases": ("i2v", {}, {"sampling__png": "phases"}),
    "the order of prompts": ("i2v", {"negative_prompts": ("a", "b")}, {"sampling__png": "phases"}),
    "no factor": ("i2v", {}, {"sampling__png": "off"}),
    "dynamic text": ("i2v", {}, {"sampling__dynamic_text": True}),
    "dynamic audio": ("i2v", {}, {"sampling__dynamic_audio": True}),
    "negative scale": ("i2v", {}, {"sampling__neg_scale": 2.0}),
    "negative steps": ("i2v", {}, {"sampling__neg_steps": 1}),
    "audio gain": ("i2v", {}, {"sampling__audio_gain": 2.0}),
    "allocation": ("i2v", {}, {"sampling__allocation": "a"}),
    "a mask that moves": ("lipsync", {"face_box": "auto"}, {"sampling__face_mask": "moving"}),
    "riflex": ("i2v", {}, {"sampling__riflex_k": 4}),
    "area": ("i2v", {}, {"sampling__max_area": 4096}),
    "size": ("i2v", {}, {"sampling__height": 32, "sampling__width": 64}),
    "enlarge": ("i2v", {}, {"sampling__enlarge": 2}),
    "a step cache": ("i2v", {}, {"sampling__cache__kind": "teacache"}),
    "eps": ("i2v", {}, {"model__transformer__eps": 1e-5}),
    "heads": ("i2v", {}, {"model__text_encoder__num_heads": 2}),
    "means": ("i2v", {}, {"model__vae__latent_mean": (1.0,) * 16}),
    "weights": ("i2v", {}, {"precision__vae": Precision("bfloat16", "float32")}),
    "activations": ("i2v", {}, {"precision__transformer": Precision("float32", "bfloat16")}),
}


@pytest.mark.parametrize("name", DECIDING)
def test_what_decides(config, folder, name):
  task, asked, settings = DECIDING[name]
  base = {"face_box": "1,2,3,4"}
  before = of(config, request_in(folder, **base))
  assert of(changed(config, **settings), request_in(folder, task, **{**base, **asked})) != before


EXCLUDED = {
    "name": ("i2v", {}, {"name": "other"}),
    "checkpoint": ("i2v", {}, {"checkpoint": "elsewhere"}),
    "prompt cache": ("i2v", {}, {"prompt_cache": "elsewhere"}),
    "program cache": ("i2v", {}, {"program_cache": "elsewhere"}),
    "kept parts": ("i2v", {}, {"keep_parts": False}),
    "preset": ("i2v", {}, {"sampling__preset": "paper"}),
    "allowed mismatch": ("i2v", {}, {"sampling__allow_mismatch": True}),
    "mesh": ("i2v", {}, {"mesh__data": 4, "mesh__tensor": 2}),
    "attention over the mesh": ("i2v", {}, {"mesh__attention": "allgather"}),
    "attention": ("i2v", {}, {"sampling__attention": "auto"}),
    "branches": ("i2v", {}, {"sampling__branches": "in_turn"}),
    "blocks": ("i2v", {}, {"sampling__token_blocks": 2}),
    "longest clip": ("i2v", {}, {"sampling__max_frames": 81}),
    "the same seed, said": ("i2v", {"seed": 43}, {}),
    "spaces and zeros in the box": ("i2v", {"face_box": "1, 2.0,3,4"}, {}),
    "paste, not lipsync": ("i2v", {"paste": False}, {}),
    "a detector that is not asked": ("i2v", {}, {"face_detector": "absent.onnx"}),
    "the released switch": ("i2v", {}, {"sampling__released_switch": False}),
    "phases of no effect": ("i2v", {}, {"sampling__png_phases": (Phase(),)}),
    "a whole number": ("i2v", {}, {"sampling__text_scale": 3}),
}


@pytest.mark.parametrize("name", EXCLUDED)
def test_what_does_not_decide(config, folder, name):
  task, asked, settings = EXCLUDED[name]
  base = {"face_box": "1,2,3,4"}
  before = of(config, request_in(folder, task, **base))
  assert of(changed(config, **settings), request_in(folder, task, **{**base, **asked})) == before


def test_a_step_cache_counts_with_its_limits_and_its_calibration(config, folder):
  calibrations = [folder / name for name in ("one.json", "two.json", "same.json")]
  for path, content in zip(calibrations, ("1", "2", "1"), strict=True):
    path.write_text(content)
  cached = changed(config, sampling__cache__kind="magcache", sampling__cache__file=str(calibrations[0]))
  changes = [{}, {"threshold": 0.3}, {"skip_start": 2}, {"max_skips": 1}, {"retention": 0.5}, {"kind": "teacache"},
             {"file": str(calibrations[1])}]
  found = [of(changed(cached, **{f"sampling__cache__{name}": value for name, value in change.items()}),
              request_in(folder)) for change in changes]
  assert len(set(found)) == len(changes)
  assert of(changed(cached, sampling__cache__file=str(calibrations[2])), request_in(folder)) == found[0]


UNUSED = {  # (task, settings that leave without effect, what then changes nothing)
    "text settings without guidance": (
        "i2v", {"sampling__text_scale": 1.0},
        [{"sampling__text_scale": 0.5}, {"sampling__negative_prompt": "x"},
         {"sampling__neg_scale": 3.0}, {"sampling__neg_steps": 9},
         {"sampling__dynamic_text": True}, {"sampling__audio_scale": 9.0},
         {"sampling__dynamic_audio": True}]),
    "flash": (
        "i2v", {"model__transformer__variant": "flash", "sampling__neg_scale": 1.0},
        [{"sampling__text_scale": 9.0}, {"sampling__negative_prompt": "x"}]),
    "audio guidance alone": (
        "i2v", {"sampling__text_scale": 1.0, "sampling__released_switch": False},
        [{"sampling__negative_prompt": "x"}, {"sampling__neg_scale": 3.0}, {"sampling__png": "phases"}]),
    "phases that have prompts": (
        "i2v", {"sampling__png": "phases"},
        [{"sampling__negative_prompt": "x"}, {"sampling__neg_scale": 3.0}, {"sampling__neg_steps": 9}]),
    "area of a fixed size": (
        "i2v", {"sampling__height": 32, "sampling__width": 32}, [{"sampling__max_area": 4096}]),
    "the second shift of euler": (
        "i2v", {"sampling__solver": "euler"}, [{"sampling__solver_shift": 3.0}]),
    "steps of no factor": (
        "i2v", {"sampling__neg_scale": 1.0}, [{"sampling__neg_steps": 3}]),
    "a factor at no step": (
        "i2v", {"sampling__neg_steps": -1}, [{"sampling__neg_scale": 3.0}]),
}


@pytest.mark.parametrize("name", UNUSED)
def test_settings_without_effect_are_left_out(config, folder, name):
  task, settings, changes = UNUSED[name]
  base, request = changed(config, **settings), request_in(folder, task, face_box="none")
  for change in changes:
    assert of(changed(base, **change), request) == of(base, request), change


def test_phases_count_by_what_they_say(config, folder):
  """Ends by their steps, negative prompts by their texts, wherever they come from."""
  def entry(phases, request=(), **settings):
    phased = model_of(config, sampling__png="phases", sampling__steps=4, sampling__png_phases=phases, **settings)
    return lib.entries(phased, request_in(folder, face_box="none", **dict(request)))["png_phases"]

  said = entry((Phase(until_step=1, weight=1.5, negative_prompt="a"), Phase(negative_prompt="b")))
  assert said == [[1, "a", 1.5], [4, "b", 1]]
  assert said == entry((Phase(until=0.25, weight=1.5), Phase(negative_prompt="b")), sampling__negative_prompt="a")
  assert said == entry((Phase(until_step=1, weight=1.5), Phase()), {"negative_prompts": ("a", "b")})


def test_a_waveform_that_is_not_normalised_counts_for_preview(config, folder, monkeypatch):
  monkeypatch.setattr(Model, "digest", lambda _, name: f"digest of {name}")
  audio = ComponentCard({}, "float32", features={"do_normalize": False})
  for variant, counts in (("preview", True), ("flash", False)):
    usual, other = (model_of(config, model__transformer__variant=variant, sampling__neg_scale=1.0) for _ in range(2))
    other.card = ModelCard(folder, None, {"audio_encoder": audio})
    told, apart = (lib.entries(model, request_in(folder)) for model in (usual, other))
    assert apart == told | ({"features.do_normalize": False} if counts else {})


def test_the_face_box_counts_where_it_is_used(config, folder):
  flash = changed(config, model__transformer__variant="flash", sampling__neg_scale=1.0)
  for settings, task, counts in ((config, "i2v", True), (config, "flf2v", True),
                                 (config, "t2v", False), (config, "lipsync", True),
                                 (flash, "i2v", False), (flash, "lipsync", True)):
    one, other = (of(settings, request_in(folder, task, face_box=box))
                  for box in ("1,2,3,4", "1,2,3,5"))
    assert (one != other) is counts, task
  pasted = {of(config, request_in(folder, "lipsync", paste=paste)) for paste in (True, False)}
  assert len(pasted) == 2


def test_the_detector_counts_where_it_is_asked(config, folder, monkeypatch):
  """By a number of its code, or by the contents of its file."""
  def entry(face_box, **settings):
    asked = request_in(folder, face_box=face_box)
    return lib.entries(model_of(config, **settings), asked).get("face_detector")

  assert entry("auto") == entry(None) == lib.detect.IDENTITY
  assert entry("1,2,3,4") is entry("none") is entry("auto", face_detector=str(folder / "yunet.onnx")) is None
  yunet = model_of(config, face_detector=str(folder / "yunet.onnx"))
  tracked = [lib.entries(yunet, request_in(folder, *asked)).get("face_track") for asked in (["lipsync"], ["i2v"])]
  assert tracked == [lib.track.VERSION, None]
  before = of(config, request_in(folder, face_box="auto"))
  monkeypatch.setattr(lib.detect, "IDENTITY", "another")
  assert of(config, request_in(folder, face_box="auto")) != before


@pytest.mark.parametrize("task, face_box, names", [
    ("i2v", "auto", {"audio", "image", "yunet.onnx"}), ("t2v", "auto", {"audio"}),
    ("flf2v", "box.npy", {"audio", "image", "last_image", "box.npy"}),
    ("lipsync", "none", {"audio", "video"}), ("lipsync", "auto", {"audio", "video", "yunet.onnx"})])
def test_the_contents_of_files_count_where_they_are_used_and_places_do_not(
    config, folder, tmp_path_factory, task, face_box, names):
  def in_folder(where):
    settings = changed(config, face_detector=str(where / "yunet.onnx"),
                       tokenizer=str(where / "tokenizer.json"))
    box = str(where / face_box) if face_box.endswith("npy") else face_box
    return of(settings, request_in(where, task, face_box=box))

  before = in_folder(folder)
  assert in_folder(shutil.copytree(folder, tmp_path_factory.mktemp("moved") / "m")) == before
  for name in FILES:
    content = (folder / name).read_text()
    (folder / name).write_text(content + " and more")
    assert (in_folder(folder) != before) is (name in names | {"tokenizer.json"}), name
    (folder / name).write_text(content)
  for name in names:
    (folder / name).rename(folder / "away")
    with pytest.raises(InputError, match=f"{name} cannot be read: No such file"):
      in_folder(folder)
    (folder / "away").rename(folder / name)
  assert in_folder(folder) == before


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_weights_of_each_network_count(config, folder, monkeypatch, component):
  monkeypatch.setattr(Model, "digest", lambda _, name: f"digest of {name}")
  before = of(config, request_in(folder))
  monkeypatch.setattr(Model, "digest", lambda _, name: f"{name == component} digest of {name}")
  assert of(config, request_in(folder)) != before


def test_two_exports_of_other_weights_are_told_apart(config, folder):
  def export(value):
    for name in COMPONENTS:
      checkpoints.save_component(folder / "model", name, {"kernel": np.full(3, value, np.float32)},
                                 config={}, variant="preview")
    model = model_of(config)
    model.card = checkpoints.read_model_card(folder / "model")
    return lib.fingerprint(model, request_in(folder))

  first, again, other = export(1), export(1), export(2)
  assert first == again != other


def test_the_numbers_of_the_code_count(config, folder, monkeypatch):
  before = of(config, request_in(folder))
  monkeypatch.setattr(lib, "NUMERICS", lib.NUMERICS + 1)
  assert of(config, request_in(folder)) != before


def test_untrained_weights_are_known_by_their_seed(config, folder):
  request = request_in(folder, seed=1)
  assert of(config, request) != of(changed(config, seed=44), request)


def test_what_a_report_says(config, folder):
  model, request = model_of(config), request_in(folder)
  told = lib.provenance(model, request)
  assert told["fingerprint"] == lib.fingerprint(model, request)
  assert told["networks"] == {name: model.digest(name) for name in COMPONENTS}
  assert told["tokenizer"] == lib.entries(model, request)["file.tokenizer"]
  with model.using("transformer", {"kernel": np.zeros(3)}):
    assert lib.provenance(model, request) == {}  # nobody knows its digest
    with pytest.raises(InputError, match="the weights of transformer are not in the model folder"):
      lib.fingerprint(model, request)


def test_an_unknown_task_is_refused(config, folder):
  with pytest.raises(InputError, match="Unknown task"):
    of(config, dataclasses.replace(request_in(folder), task="v2v"))


def test_prompts_are_cached_by_all_that_their_embeddings_depend_on(config, folder, monkeypatch):
  settings = changed(config, prompt_cache=str(folder), tokenizer=str(folder / "tokenizer.json"))
  file = lambda **changes: clip.open_cache(model_of(settings, **changes)).file("hello")
  before = file()
  for same in ({"name": "other"}, {"sampling__steps": 3}, {"model__vae__base_dim": 8}):
    assert file(**same) == before
  others = [{"seed": 44}, {"model__text_encoder__eps": 1e-5}, {"model__transformer__text_tokens": 8},
            {"precision__text_encoder": Precision(compute="bfloat16")},
            {"tokenizer": str(folder / "audio")}]
  found = {before, *(file(**other) for other in others)}
  monkeypatch.setattr(Model, "digest", lambda _, name: f"digest of {name}")
  assert len(found | {file()}) == len(others) + 2
  assert clip.open_cache(model_of(settings, prompt_cache="")) is None
  monkeypatch.delenv("HOME")
  monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # nobody who has a home folder
  assert clip.open_cache(model_of(settings, prompt_cache="~/prompts")) is None
