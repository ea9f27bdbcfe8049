"""The watch: all figures of a world, what chance makes of them, and what has changed."""

import functools
import json

import numpy as np
import pytest

from configs import tiny
from emv3_jax.errors import InputError
from emv3_jax.puppets.judging import judge, samples
from scripts import judge_tiny, png_tiny
from tests.puppets.actors import Actor, clips, faultless, still


@functools.cache
def rows(perform):
  known = clips(9)[:2]
  return [judge.row(shown) for shown in samples.perform(Actor(perform, known), known)]


def frozen(clip, heard, picture):
  return still(clip)


def test_figures_of_puppets_that_do_as_told():
  found = judge.figures(rows(faultless))
  assert found["t2v/hair"] == found["t2v/fingers"] == found["i2v/fingers"] == 1
  assert found["t2v/clothes/chance"] < 1 and found["t2v/r"] > 0.9
  for flaw in ("wrong_fingers", "jerky", "drifting"):
    assert found[flaw] == found[f"{flaw}/vae"] == found[f"{flaw}/true"] == 0
  assert found["hair_style"] == found["hair_style/vae"] == 1 and found["hair_shape/vae"] > 0.9
  assert {"r", "swapped_r", "silent_opening", "i2v/gesture", "i2v/gesture/true"} <= set(found)
  json.dumps(found, allow_nan=False)


def test_what_captions_tell_may_be_left_out():
  fewer = [{name: each[name] for name in each if name != "t2v"} for each in rows(faultless)]
  whole = judge.figures(rows(faultless))
  assert judge.figures(fewer) == {name: value for name, value in whole.items()
                                  if not name.startswith("t2v/")}


def test_noise_of_a_mean_is_its_standard_error():
  jerks = np.random.default_rng(1).normal(2.0, 1.0, 40)
  many = [{**rows(faultless)[0], "flaws": {"": {"jerk": jerk}}} for jerk in jerks]
  found = judge.noise(many)
  assert found["jerk"] == pytest.approx(jerks.std() / np.sqrt(40), rel=0.15)
  assert found["identities"] == 1 / 42 and found["r"] == 0.005  # the least: all clips agree


@functools.cache
def known():
  return judge.evidence({"2": rows(faultless), "3": rows(faultless)}, date="today")


def test_nothing_has_changed():
  told = judge.figures(rows(faultless))
  assert known()["date"] == "today" and known()["clips"] == 2
  assert judge.changes({"2": told, "3": told}, 2, known()) == []


def test_changes_are_named():
  worse = judge.figures(rows(frozen))
  lines = judge.changes({"2": judge.figures(rows(faultless)), "3": worse}, 2, known())
  world = [line for line in lines if line.startswith("world")]
  assert all(line.startswith("world 3: ") for line in world)
  assert any(": r found " in line and "expected" in line and "allowed" in line for line in world)
  assert any(line.startswith("mean of 2 worlds: r ") for line in lines)
  assert not any("/chance" in line for line in lines)


def test_fewer_clips_may_differ_by_more_and_worlds_together_by_less():
  told, before = judge.figures(rows(faultless)), known()
  allowed = judge.ALLOWED * before["noise"]["jerk"]
  off = {**told, "jerk": told["jerk"] + 0.9 * allowed}
  assert judge.changes({"2": off}, 2, before) == []
  assert [line[:24] for line in judge.changes({"2": off, "3": off}, 2, before)] == [
      "mean of 2 worlds: jerk f"]
  off["jerk"] = told["jerk"] + 1.2 * allowed
  assert len(judge.changes({"2": off}, 2, before)) == 1
  assert judge.changes({"2": off}, 1, before) == []


def test_figures_may_be_new_but_not_missing():
  told = judge.figures(rows(faultless))
  assert judge.changes({"2": {**told, "new": 1.0}}, 2, known()) == []
  with pytest.raises(InputError, match="Figures are missing: jerk; --write"):
    judge.changes({"2": {name: value for name, value in told.items() if name != "jerk"}}, 2, known())


@pytest.fixture
def watch(monkeypatch, tmp_path):
  """The command line on puppets played without a model; the evidence lies in a temporary folder."""
  monkeypatch.setattr(judge_tiny, "EVIDENCE", tmp_path / "default.json")
  monkeypatch.setattr(judge_tiny.program_cache, "use", lambda folder: None)

  known = clips(9)[:2]
  monkeypatch.setattr(judge_tiny.samples, "render", lambda *asked: known)

  def run(perform, *arguments):
    monkeypatch.setattr(judge_tiny.samples, "Actor", lambda model, kept: Actor(perform, known))
    if "--write" not in arguments:  # once is enough to see that it measures
      monkeypatch.setattr(judge_tiny, "rows_of", lambda *asked: rows(perform))
    return judge_tiny.main(["--clips=2", "--frames=9", "--worlds=2", *arguments])

  return run


def test_command_writes_and_compares(watch, capsys):
  with pytest.raises(InputError, match="--write it"):
    watch(faultless)
  assert watch(faultless, "--write") == 0
  capsys.readouterr()
  assert watch(faultless) == 0
  told = capsys.readouterr()
  assert json.loads(told.out)["world"] == "2" and told.err == ""
  assert watch(frozen) == 1
  told = capsys.readouterr().err
  assert "world 2: r found" in told and "figures have changed" in told
  evidence = json.loads(judge_tiny.EVIDENCE.read_text())
  assert len(evidence["weights"]) == 64 and evidence["sampling"]["steps"] > 0
  assert evidence["command"].startswith("python ") and evidence["worlds"]["2"]["r"] > 0.9
  with pytest.raises(InputError, match="is of frames 9, not 21"):
    watch(faultless, "--frames=21")
  with pytest.raises(InputError, match="the worlds 7; there are 2"):
    watch(faultless, "--worlds=2,7")


def test_other_weights_are_measured_only(watch, capsys):
  assert watch(frozen, f"--checkpoint={tiny.get_config().checkpoint}") == 0
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("flag, told", [
    ("--clips=1", "at least 2"), ("--worlds=two", "give numbers"),
    ("--worlds=1,2 --sweep=a.png", "one for a sweep")])
def test_mistakes_are_named(watch, flag, told):
  with pytest.raises(InputError, match=told):
    watch(faultless, *flag.split())


def test_png_is_measured_by_scale_and_mode(monkeypatch, tmp_path, capsys):
  asked, puppets = [], clips(9)[:2]
  monkeypatch.setattr(png_tiny.program_cache, "use", lambda folder: None)
  monkeypatch.setattr(png_tiny.samples, "render", lambda *_: puppets)
  monkeypatch.setattr(png_tiny, "load", lambda checkpoint, config: asked.append(config.sampling))
  monkeypatch.setattr(png_tiny.samples, "Actor", lambda model, kept: Actor(faultless, puppets))
  out = tmp_path / "png.json"
  assert png_tiny.main(["--text_scales=4", "--png=released,phases", f"--out={out}"]) == 0
  assert [(one.text_scale, one.png, one.neg_scale, len(one.png_phases)) for one in asked] == [
      (4.0, "released", 1.5, 2), (4.0, "phases", None, 2)]
  found = json.loads(out.read_text())["rows"]
  assert found == [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert found[1]["png"] == "phases" and found[1]["text_scale"] == 4 and found[1]["r"] > 0.9 and found[1]["noise"]["r"]
  for flag, told in (("--png=on", "known modes: released"), ("--text_scales=x", "give numbers"), ("--clips=0", "at least one")):
    with pytest.raises(InputError, match=told):
      png_tiny.main([flag])
