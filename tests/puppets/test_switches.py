"""The table of fewer and cheaper steps: its switches exist, and its figures are of what was sampled."""

import dataclasses
import json

import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.runtime import command_line
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.resolution import resolve_config
from emv3_jax.sampling.settings import Config
from scripts import switches_tiny


@pytest.mark.parametrize("name", switches_tiny.SWITCHES)
def test_every_switch_is_of_settings_that_exist(name):
  plain, switched = (resolve_config(config_lib.build(Config, command_line.read_config(
      "configs/tiny.py", overrides, Config)), None)[0] for overrides in ((), switches_tiny.SWITCHES[name]))
  assert (plain == switched) == (name == switches_tiny.NONE)


def test_the_table_compares_with_the_clips_without_a_switch(monkeypatch, tmp_path, capsys):
  video = np.full((5, 16, 16, 3), 100, np.uint8)

  def measured(flags, name, clips, calibrations, folder):
    brighter = {"none": 0, "magcache": 5}[name]
    return {"switch": name, "evaluations": 75.0 - 10 * brighter, "seconds": 2.5, "r": 0.9}, [video + np.uint8(brighter)]

  monkeypatch.setattr(switches_tiny, "measured", measured)
  monkeypatch.setattr(switches_tiny, "model_of", lambda *asked: None)
  monkeypatch.setattr(switches_tiny.samples, "weights_digest", lambda model: "digest")
  monkeypatch.setattr(switches_tiny.samples, "render", lambda *asked: [None])
  monkeypatch.setattr(switches_tiny.program_cache, "use", lambda folder: None)
  assert switches_tiny.main(["--switches=magcache", "--clips=1", f"--json={tmp_path}/rows.json"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[2:] == ["| none | 75 | 2.50 | same | 1.000 | 0.90 |", "| magcache | 25 | 2.50 | 34.2 | 0.999 | 0.90 |"]
  found = json.loads((tmp_path / "rows.json").read_text())
  assert found["rows"][0]["psnr"] is None and found["rows"][1]["psnr"] == pytest.approx(34.15, abs=0.01)
  with pytest.raises(InputError, match="--switches names 'x'; known: none, teacache"):
    switches_tiny.main(["--switches=x"])


@dataclasses.dataclass
class Flags:
  split: str = "held_out"
  frames: int = 9


def test_equal_guidance_is_calibrated_once(monkeypatch, tmp_path):
  asked, known = [], {}
  monkeypatch.setattr(switches_tiny, "model_of", lambda flags, overrides: asked.append(overrides))
  monkeypatch.setattr(switches_tiny, "calibrate", lambda model, request, path: path)
  monkeypatch.setattr(switches_tiny.samples.Actor, "__init__", lambda self, model: None)
  monkeypatch.setattr(switches_tiny.samples.Actor, "request", lambda *asked: None)
  monkeypatch.setattr(switches_tiny.samples, "render", lambda *asked: [type("Clip", (), {"audio": None})])
  of = lambda name: switches_tiny.calibration(Flags(), switches_tiny.SWITCHES[name], known, tmp_path)
  assert of("magcache") == of("teacache") != of("magcache + guidance_until 0.5")
  assert asked == [(), ("sampling.guidance_until=0.5",)]
