"""Ranking, advice and output of plans; what is compiled is stood in for."""

import dataclasses
import json

import pytest

from configs import echomimic_v3_preview, train_tiny
from configs.tiny import MODEL
from emv3_jax.commands import sample as run_sample
from emv3_jax.commands import train as run_train
from emv3_jax.errors import InputError
from emv3_jax.plan import meshes, planner, programs, report, subjects, targets, training_programs
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.settings import Config
from emv3_jax.sharding import MeshConfig
from emv3_jax.training.settings import Config as TrainConfig

CONFIG = config_lib.build(Config, echomimic_v3_preview.get_config())
ODD_WINDOW = programs.Window(5, 48, 48)


@pytest.fixture
def compiled(monkeypatch):
  """Programs whose memory depends on branches and devices; gives the list of what was compiled."""
  seen = []

  def compile_programs(config, window, target, mesh, names):
    for name in names:
      in_turn = config.train.accumulate if name in subjects.TRAINING.programs else 1 + (
          config.sampling.branches == "in_turn")
      seen.append((name, target.name, mesh, in_turn))
      peak = (48.0 if in_turn == 1 else 20.0) / target.devices
      yield {
          "program": name, "target": target.name, "mesh": {**vars(mesh)}, "chips": target.chips,
          "peak_gib": peak, "parameters_gib": 3.2, "inputs_gib": 0.8, "activations_gib": 1.0,
          "capacity_gib": target.chip.capacity_gib, "fits": peak <= target.chip.capacity_gib,
          "flops": 10 ** 15, "padding": 1.0, "seconds_at_peak": 2.0, "seconds_at_40_percent": 5.0,
          "collectives": {"all-to-all": {"count": 4, "mib": 64.0}}, "compile_seconds": 1.0,
          "warnings": ["gathers a whole parameter stack [30, 1536, 1536]"],
          "frames": window.frames, "height": window.height, "width": window.width}

  monkeypatch.setattr(planner, "compile_programs", compile_programs)
  monkeypatch.setattr(targets, "check_extra", lambda target: None)
  return seen


def test_the_window_is_the_largest(compiled):
  line = planner.plan(CONFIG, targets.parse("v5p:2x2x1"))[0]
  assert (line["frames"], line["height"], line["width"]) == (113, 768, 768)


def test_windows_that_no_clip_has_are_errors():
  for window in (programs.Window(113, 0, 16), programs.Window(113, 16, 24), programs.Window(112, 16, 16)):
    with pytest.raises(InputError, match=f"{window.frames} frames of .* cannot be planned"):
      programs.check_window(window)


def test_meshes_are_ranked_for_each_program(compiled):
  lines = planner.plan(CONFIG, targets.parse("v5p:2x2x1"), ["data=4", "context=4"])
  assert [(line["program"], line["rank"], line["mesh"]["context"]) for line in lines] == [
      (name, rank, {1: 4, 2: 1}[rank])
      for name in ("sample_step", "vae_decode", "vae_encode") for rank in (1, 2)]


def test_what_fits_comes_first():
  """What does not is last, however fast it is and however little it takes."""
  target, step = targets.parse("v5e:2x2"), meshes.Step(CONFIG.model.transformer, 3, 48 * 48, 29)
  line = lambda fits, peak, **mesh: {"fits": fits, "peak_gib": peak, "mesh": vars(MeshConfig(**mesh))}
  lines = [line(False, 1.0, context=4), line(True, 3.0, fsdp=4), line(True, 2.0, fsdp=4)]
  ranked = planner._ranked(target, step, lines)
  assert [(found["peak_gib"], found["rank"]) for found in ranked] == [(2.0, 1), (3.0, 2), (1.0, 3)]


def test_all_means_several_meshes_and_none_the_likeliest(compiled):
  target = targets.parse("v5p:2x2x1")
  assert len(planner.plan(CONFIG, target, ["all"], names=["sample_step"])) == planner.NUM_LIKELY
  (line,) = planner.plan(CONFIG, target, names=["sample_step"])
  assert MeshConfig(**line["mesh"]) == MeshConfig(context=4)


def test_what_does_not_fit_comes_with_what_does(compiled):
  (line,) = planner.plan(CONFIG, targets.parse("v6e:1x1"), names=["sample_step"])
  assert not line["fits"]
  assert line["advice"] == (
      "16.75 GiB too much; --config.sampling.branches=in_turn takes 20.00 of 31.25 GiB, or "
      "--plan=v6e:2x2 --mesh=context=4,attention=ulysses takes 12.00 of 31.25 GiB")
  (line,) = planner.plan(CONFIG, targets.parse("v5e:1x1"), names=["sample_step"])
  assert line["advice"] == ("32.25 GiB too much; --plan=v5e:2x2 --mesh=context=4,attention=ulysses "
                            "takes 12.00 of 15.75 GiB")


def test_a_mesh_of_another_size_is_an_error_before_anything_is_compiled(compiled):
  with pytest.raises(InputError, match="takes 2 devices, the target has 4"):
    planner.plan(CONFIG, targets.parse("v5p:2x2x1"), ["data=2"])
  assert not compiled


@pytest.mark.parametrize("mesh, message", [
    ("context=8", "12 heads do not divide over context 8 x tensor 1 = 8.*allgather"),
    ("tensor=8", "12 heads do not divide over tensor 8; possible: 1, 2, 3, 4, 6, 12"),
    ("context=8,attention=allgather", "30 x 53 = 1590 token positions.*context 8.*480x832 or")])
def test_a_mesh_that_divides_nothing_is_an_error_before_anything_is_compiled(
    compiled, mesh, message):
  config = dataclasses.replace(CONFIG, sampling=dataclasses.replace(
      CONFIG.sampling, height=480, width=848))
  with pytest.raises(InputError, match=message):
    planner.plan(config, targets.parse("v5e:2x4"), [mesh])
  assert not compiled


def test_where_devices_repeat_the_work_of_others_the_plan_says_so(compiled):
  config = dataclasses.replace(CONFIG, sampling=dataclasses.replace(
      CONFIG.sampling, height=480, width=832))
  step, decode, _ = planner.plan(config, targets.parse("v6e:8x8"))
  assert "60 rows and 104 columns of latents, over 32 of 64 devices" in decode["warnings"][-1]
  assert len(step["warnings"]) == 1


def test_table(compiled):
  lines = planner.plan(CONFIG, targets.parse("v6e:1x1"), names=["sample_step"])
  text = report.table(lines)
  assert text.splitlines()[0] == "v6e:1x1: 1 chip, 31.25 GiB each; 113 frames of 768x768"
  for part in ("48.00 does not fit", "4 all-to-all (64)", "16.75 GiB too much",
               "warning, sample_step on data=1: gathers a whole parameter stack"):
    assert part in text


def test_command_line_writes_json_lines_and_exits_0_also_where_nothing_fits(compiled, capsys):
  code = run_sample.main(["--config=configs/echomimic_v3_preview.py", "--json",
                          "--plan=v5e:1x1,h100:1x1x2", "--mesh=all"])
  lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
  assert code == 0
  assert {line["target"] for line in lines} == {"v5e:1x1", "h100:1x1x2"}
  needed = {"program", "target", "mesh", "chips", "peak_gib", "capacity_gib", "flops",
            "seconds_at_peak", "collectives", "compile_seconds", "warnings"}
  assert all(needed <= line.keys() for line in lines)
  assert any("advice" in line for line in lines)


def test_mesh_without_plan_is_an_error():
  with pytest.raises(InputError, match="goes with --plan"):
    run_sample.main(["--config=configs/tiny.py", "--mesh=data=2"])


def training(**train):
  config = config_lib.build(TrainConfig, train_tiny.get_config())
  return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def odd_training():
  """Of pictures of ODD_WINDOW: divides over no mesh of a power of two."""
  net = dataclasses.replace(MODEL.transformer, ffn_dim=767, num_heads=3)
  return dataclasses.replace(training(batch=3), data="",
                             model=dataclasses.replace(MODEL, transformer=net))


def test_training_is_planned_without_padding(compiled):
  lines = planner.plan(training(batch=6), targets.parse("v6e:2x2"))
  assert [line["program"] for line in lines] == ["train_step", "ndpo_step"]
  assert MeshConfig(**lines[0]["mesh"]) == MeshConfig(fsdp=2, context=2)
  assert (lines[0]["frames"], lines[0]["height"], lines[0]["width"]) == (113, 480, 832)


def test_a_mesh_of_the_config_is_taken_where_it_fits_the_target(compiled):
  config = dataclasses.replace(training(batch=4), mesh=MeshConfig(data=2, fsdp=2))
  for target, want in (("v5p:2x2x1", config.mesh), ("v5p:2x2x2", MeshConfig(fsdp=4, context=2))):
    (line,) = planner.plan(config, targets.parse(target), names=["train_step"])
    assert MeshConfig(**line["mesh"]) == want


def test_a_training_batch_that_does_not_divide_is_an_error(compiled):
  with pytest.raises(InputError, match="A batch of 6 .*data 1 x fsdp 4 = 4; the next .* is 8"):
    planner.plan(training(batch=6), targets.parse("v5e:2x2"), ["fsdp=4"])
  with pytest.raises(InputError, match="No mesh of the 8 devices of v5e:2x4 divides a batch of 3"):
    planner.likely_meshes(odd_training(), ODD_WINDOW, targets.parse("v5e:2x4"))
  assert not compiled


def test_training_that_does_not_fit_is_advised_to_accumulate(compiled):
  target = targets.parse("v5e:1x2")
  (line,) = planner.plan(training(batch=8), target, names=["train_step"])
  assert line["advice"].startswith(
      "8.25 GiB too much; --config.train.accumulate=2 takes 10.00 of 15.75 GiB, or --plan=v5e:2x2 ")
  (line,) = planner.plan(training(batch=2), target, names=["train_step"])  # one row a chip
  assert line["advice"].startswith("8.25 GiB too much; --plan=v5e:2x2 --mesh=")


def test_larger_machines_over_which_nothing_divides_end_the_search(compiled, monkeypatch):
  monkeypatch.setattr(training_programs, "DEFAULT_WINDOW", ODD_WINDOW)
  (line,) = planner.plan(odd_training(), targets.parse("v5e:1x1"), names=["train_step"])
  assert line["advice"].startswith("32.25 GiB too much; no alternative that was tried fits")
  assert len(compiled) == 1


def test_command_line_of_training(compiled, capsys):
  flags = ["--config=configs/train_tiny.py", "--plan=v5p:2x2x1", "--json",
           "--config.train.batch=16"]
  assert run_train.main(flags) == 0
  lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
  assert [line["program"] for line in lines] == ["train_step", "ndpo_step"]
  with pytest.raises(InputError, match="--mesh and --json go with --plan"):
    run_train.main([flags[0], flags[2]])
