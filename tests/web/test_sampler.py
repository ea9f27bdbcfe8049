"""The process that samples: events, previews, cancel, and what it is given and says of the model's settings."""

import dataclasses
import io
import json
import shutil

import numpy as np
from PIL import Image
import pytest

from emv3_jax.errors import InputError
from emv3_jax.sampling.settings import SamplingConfig
from emv3_jax.web import preview, sampler, settings_form
from tests.sampling.conftest import files, model, tiny_config  # noqa: F401 (fixtures)


@pytest.fixture
def worker(tmp_path, model, files):  # noqa: F811
  (tmp_path / "uploads").mkdir()
  (tmp_path / "previews").mkdir()
  shutil.copy(files["image"], tmp_path / "uploads/a.png")
  shutil.copy(files["audio"], tmp_path / "uploads/b.wav")
  made = sampler.Worker(sampler.Choice("tiny", "", tmp_path, True), io.StringIO())
  made.models.get = lambda checkpoint, settings: model
  return made


def job(**fields):
  request = {"image": "uploads/a.png", "audio": "uploads/b.wav", "task": "i2v", "prompt": "a puppet",
             "face_box": "8,40,8,40"}
  return {"line": 3, "name": "page_00003", "settings": {}, "checkpoint": "", "save_latents": False, **fields,
          "request": {**request, **fields.get("request", {})}}


def events(worker):
  return [json.loads(line) for line in worker._events.getvalue().splitlines()]


def test_a_clip_tells_its_steps_and_shows_a_preview(worker, tmp_path):
  worker._make(job())
  found = events(worker)
  assert [(event["step"], event["steps"]) for event in found if event["event"] == "step"] == [(0, 2), (1, 2), (2, 2)]
  end = found[-1]
  assert end["event"] == "end" and end["entry"]["status"] == "done" and end["entry"]["line"] == 3
  assert (tmp_path / "page_00003.mp4").exists() and len(end["entry"]["frames_sha256"]) == 64
  assert [event["event"] for event in found].count("preview") == 1  # after the second step
  assert Image.open(tmp_path / "previews/page_00003.png").size == (384, 384)  # of 48 pixels
  worker._make(job())  # it is done, as in batches
  assert events(worker)[-1]["entry"]["status"] == "skipped"


def test_a_cancelled_clip_ends_between_steps_and_leaves_nothing(worker, tmp_path):
  tell = worker.tell

  def cancel(event, **fields):
    tell(event, **fields)
    if event == "step" and fields["step"] == 1:
      worker._cancelled.add("page_00003")

  worker.tell = cancel
  with pytest.raises(sampler.Cancelled):
    worker._make(job())
  assert [event["step"] for event in events(worker) if event["event"] == "step"] == [0, 1]
  assert not [path.name for path in tmp_path.iterdir() if path.is_file()]  # no claim, no part of a video


def test_wrong_input_fails_the_job_alone(worker):
  worker._make(job(request={"image": "uploads/none.png"}))
  worker._make(job(request={"task": "none"}))
  assert [event["entry"]["status"] for event in events(worker)] == ["failed", "failed"]
  assert "no such file" in events(worker)[0]["entry"]["reason"]


def test_settings_of_the_page_are_those_of_the_command_line(monkeypatch):
  opened = []
  monkeypatch.setattr(sampler, "load", lambda folder, config, overridden: opened.append((config, overridden)))
  models = sampler.Models(sampler.Choice("tiny", "", None, True))
  models.get("", {"steps": "4", "long.mode": "paper", "negative_prompt": "a, b=c"})
  config, overridden = opened[0]
  assert (config.sampling.steps, config.sampling.long.mode, config.sampling.negative_prompt) == (4, "paper", "a, b=c")
  assert overridden == {"sampling.steps", "sampling.long.mode", "sampling.negative_prompt"}
  with pytest.raises(InputError, match="steps"):
    models.get("", {"steps": "many"})


def test_the_form_has_every_setting_with_its_help(model):  # noqa: F811
  found = {field["name"]: field for field in settings_form.fields(model)}
  left_out = {"png_phases", "long", "cache"}  # lists and groups
  assert {field.name for field in dataclasses.fields(SamplingConfig)} - left_out <= found.keys()
  assert {"long.mode", "cache.kind"} <= found.keys()
  assert all(len(field["help"]) > 10 for field in found.values()), found
  assert found["steps"] == {"name": "steps", "kind": "whole", "choices": [], "value": "2", "first": True,
                            "help": "Number of solver steps."}
  for field in found.values():
    assert field["kind"] != "choice" or field["value"] in field["choices"], field
    assert "`" not in field["help"] and " see " not in field["help"], field
  values = {name: field["value"] for name, field in found.items() if not name.startswith("cache.")}
  again = tiny_config(*settings_form.assignments(values))  # each value is one that the command line reads
  assert again.sampling.steps == 2 and again.sampling.long == model.config.settings.long


def test_previews_follow_the_line_to_the_clean_latents(rng):
  clean, noise = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
  at = lambda sigma: (1 - sigma) * clean + sigma * noise
  assert np.allclose(preview.clean_estimate(at(0.8), at(0.5), 0.8, 0.5), clean, atol=1e-5)


@pytest.mark.parametrize("shape, size", [((64, 32), (192, 384)), ((100, 300), (300, 100)), ((768, 768), (384, 384))])
def test_previews_are_small(tmp_path, shape, size):
  preview.write(tmp_path / "a.png", np.zeros((*shape, 3), np.uint8))
  assert Image.open(tmp_path / "a.png").size == size
