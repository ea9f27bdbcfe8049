"""Clips whose steps are skipped, from the calibration of their model on; the command that calibrates."""

import dataclasses
import json

from absl import logging
import numpy as np
import pytest
import soundfile

from emv3_jax.commands import sample as command
from emv3_jax.errors import InputError
from emv3_jax.sampling.cache_settings import CacheConfig
from emv3_jax.sampling.clip import sample
from emv3_jax.sampling.clip_calibration import calibrate
from emv3_jax.sampling.fingerprint import fingerprint
from emv3_jax.sampling.model import Model, load
from emv3_jax.sampling.settings import Request
from tests.sampling.conftest import TINY, tiny_config

SMALL = ("sampling.steps=4", "sampling.text_scale=2.0", "model.transformer.num_layers=2", "model.vae.base_dim=4",
         "sampling.max_frames=5")


@pytest.fixture(scope="module")
def plain() -> Model:
  return load(config=tiny_config(*SMALL))


@pytest.fixture(scope="module")
def asked(files) -> Request:
  return Request(audio=files["audio"], image=files["image"], face_box="none")


@pytest.fixture(scope="module")
def calibrated(plain, asked, tmp_path_factory):
  return calibrate(plain, asked, tmp_path_factory.mktemp("calibration") / "mine.json")


def cached(model: Model, file="", **changes) -> Model:
  settings = dataclasses.replace(model.config.sampling, cache=CacheConfig(file=str(file), **changes))
  return Model(dataclasses.replace(model.config, sampling=settings), None)


def test_a_calibration_is_of_its_model_and_schedule(plain, calibrated):
  found = json.loads(calibrated.read_text())
  settings = plain.config.settings
  assert found["run"] == {"model": plain.digest("transformer"), "variant": "preview", "solver": settings.solver, "steps": 4,
                          "shift": settings.shift, "solver_shift": settings.solver_shift}
  assert found["ratios"].keys() == {"negative+null", "prompt+null", "prompt+voice"}
  assert found["clip"]["frames"] == 5 and len(found["outputs"]) == 4


def test_a_clip_skips_steps_and_counts_what_runs(plain, asked, calibrated, monkeypatch):
  said = []
  monkeypatch.setattr(logging, "info", lambda text, *values: said.append(text % values if values else text))
  whole = sample(plain, asked)
  assert whole.report["network_evaluations"] == 12
  for kind, how in (("magcache", "MagCache"), ("teacache", "TeaCache, calibrated polynomial")):
    model = cached(plain, calibrated, kind=kind, threshold=1e5, skip_start=1, max_skips=2)
    clip = sample(model, asked)
    assert f"{how}: 2 of 4 steps run the network: 0, 3." in said
    assert clip.report["network_evaluations"] == 6 and clip.report["config"]["sampling"]["cache"]["kind"] == kind
    assert clip.report["fingerprint"] != whole.report["fingerprint"] == fingerprint(plain, asked)
    assert np.isfinite(clip.latents).all() and not np.array_equal(clip.latents, whole.latents)
  never = sample(cached(plain, calibrated, kind="magcache", threshold=0.0), asked)
  np.testing.assert_array_equal(never.latents, whole.latents)


@pytest.mark.parametrize("mode", ["blended", "chunked"])
def test_every_window_of_a_long_clip_skips(plain, asked, calibrated, tmp_path, mode):
  soundfile.write(tmp_path / "voice.wav", 0.3 * np.sin(np.arange(11 * 640) / 10), 16000)
  model = cached(plain, calibrated, kind="magcache", threshold=1e5, skip_start=1, max_skips=2)
  settings = dataclasses.replace(model.config.sampling, long=dataclasses.replace(
      model.config.sampling.long, mode=mode, overlap=1))
  model = Model(dataclasses.replace(model.config, sampling=settings), None)
  clip = sample(model, dataclasses.replace(asked, audio=tmp_path / "voice.wav"))
  assert clip.num_frames == 11 and len(clip.report["long"]["windows"]) == 3
  assert clip.report["network_evaluations"] == 3 * 6


@pytest.mark.parametrize("settings, said", [
    ({"kind": "magcache"}, "no model folder"), ({"kind": "teacache"}, "not applicable to this model"),
    ({"kind": "magcache", "file": "absent.json"}, "no calibration absent.json")])
def test_a_cache_that_cannot_be_used_is_refused_before_any_work(plain, settings, said):
  with pytest.raises(InputError, match=said):
    cached(plain, **settings)


def test_what_cannot_be_calibrated(plain, asked, tmp_path):
  with pytest.raises(InputError, match="no folder to keep a calibration in; name a file: --calibrate=FILE"):
    calibrate(plain, asked)
  soundfile.write(tmp_path / "voice.wav", 0.3 * np.sin(np.arange(9 * 640) / 10), 16000)
  with pytest.raises(InputError, match="9 frames, more than a window of 5; .* --seconds"):
    calibrate(plain, dataclasses.replace(asked, audio=tmp_path / "voice.wav"), tmp_path / "c.json")


def test_the_command_calibrates(files, tmp_path, capsys):
  given = [f"--config={TINY}", "--checkpoint=untrained", "--config.program_cache=", *(f"--config.{setting}" for setting in SMALL),
           "--config.sampling.max_area=2304", f"--audio={files['audio']}", f"--image={files['image']}", "--face_box=none",
           "--config.sampling.cache.kind=magcache"]  # which does not have to be there yet
  assert command.main([*given, f"--calibrate={tmp_path}/mine.json", "--json"]) == 0
  assert json.loads(capsys.readouterr().out)["calibration"] == f"{tmp_path}/mine.json"
  assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]
  for flag in ("out", "manifest"):
    with pytest.raises(InputError, match=f"--{flag} does not go with --calibrate"):
      command.main([*given, "--calibrate", f"--{flag}=x"])
