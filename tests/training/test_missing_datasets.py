"""A stage's dataset is needed when the stage begins: a run waits for it, and goes on once it is there."""

import dataclasses
import importlib
import json
import logging as std_logging
import pathlib
import shutil

import chex
import numpy as np
import pytest

from emv3_jax.commands import train as run_train
from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import load_component
from emv3_jax.models.network import named_leaves
from emv3_jax.runtime import processes
from emv3_jax.runtime.config import build
from emv3_jax.training import loop
from emv3_jax.training.curriculum import Stage, stage_position
from emv3_jax.training.input.sources import RequiredDataset
from emv3_jax.training.run.dataset_commands import commands_for, shipped
from emv3_jax.training.run.export import export_newest
from emv3_jax.training.settings import Config, NDPOConfig
from tests.data import windows
from tests.training import runs, tiny

DONE = loop.Outcome(6, False)


def stages_of(folder):
  return (Stage("learn", 2), Stage("hands", 2, kind="ndpo", negatives=str(folder / "negatives")),
          Stage("learn", 2))


def config_of(folder, **train):
  config = runs.config_of(folder, stages_of(folder),
                          **{"steps": 0, "log_every": 1, "checkpoint_every": 0, **train})
  return dataclasses.replace(config, ndpo=NDPOConfig(beta=1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Of datasets and weights; negatives are not there yet."""
  return tmp_path_factory.mktemp("waiting")


@pytest.fixture(scope="module")
def programs(folder):
  return tiny.programs_of(config_of(folder))


@pytest.fixture
def negatives(folder):
  """Writes the negatives; they are gone after the test."""
  yield lambda: windows.write_dataset(folder / "negatives", shards=((3, 0),))
  shutil.rmtree(folder / "negatives", ignore_errors=True)


def test_a_run_waits_for_negatives_and_goes_on(folder, programs, negatives, tmp_path, caplog):
  waiting, whole = tmp_path / "waiting", tmp_path / "whole"
  missing = RequiredDataset(str(folder / "negatives"), 1, "hands", negative=True)
  for _ in range(2):  # a second start finds them missing still
    with caplog.at_level(std_logging.WARNING):
      assert loop.train(config_of(folder), waiting, programs) == loop.Outcome(
          2, True, missing)
    assert f"stages.1 ('hands') takes its negatives from {folder / 'negatives'}" in caplog.text
    caplog.clear()
  assert runs.saved_steps(waiting) == [2] and runs.last_line(waiting) == 2

  export_newest(config_of(folder), waiting, tmp_path / "model", programs)
  found = named_leaves(load_component(tmp_path / "model", "transformer", programs.network.abstract))
  saved = runs.arrays(waiting, 2)
  for part in ("ema", "params"):
    same = [np.array_equal(leaf, saved[f"['{part}']" + "".join(f"['{x}']" for x in name.split("."))])
            for name, leaf in found.items()]
    assert all(same) if part == "ema" else not all(same), "the average is exported, not the weights"

  negatives()
  assert loop.train(config_of(folder), waiting, programs) == DONE
  assert loop.train(config_of(folder), whole, programs) == DONE
  assert runs.records(waiting) == runs.records(whole)
  chex.assert_trees_all_equal(runs.arrays(waiting, 6), runs.arrays(whole, 6))

  shutil.rmtree(folder / "negatives")  # of a stage that has ended: not needed any more
  assert loop.train(config_of(folder, steps=7), whole, programs).step == 7


def test_negatives_may_come_while_the_run_is_at_work(folder, programs, negatives, tmp_path):
  class Late(loop.Throughput):
    def count(self, step, shape, stalled):
      super().count(step, shape, stalled)
      if step == 1:
        negatives()

  assert loop.train(config_of(folder), tmp_path, programs, throughput=Late()) == DONE


def test_what_is_there_is_checked_at_once(folder, programs, negatives, tmp_path):
  negatives()
  index = json.loads((folder / "negatives/index.json").read_text())
  index["conditions"]["audio_dim"] += 1
  (folder / "negatives/index.json").write_text(json.dumps(index))
  with pytest.raises(InputError, match="negatives was prepared for another model.*audio_dim"):
    loop.train(config_of(folder), tmp_path, programs)


def test_a_first_stage_that_unlearns_needs_no_data(folder, negatives, tmp_path, monkeypatch):
  """Its negatives come from the weights that the run starts from."""
  monkeypatch.setattr(loop.Run, "after_step", lambda *_: None)
  monkeypatch.setattr(loop.Run, "step",
                      lambda _, state, step, batches: (batches.take(step), state)[1])
  config = dataclasses.replace(config_of(folder, log_every=9), stages=stages_of(folder)[1:],
                               data=str(tmp_path / "data"))
  programs = tiny.programs_of(config)
  outcome = loop.train(config, tmp_path / "w", programs)
  assert (outcome.step, outcome.missing.folder) == (0, str(folder / "negatives"))
  export_newest(config, tmp_path / "w", tmp_path / "model", programs)
  negatives()
  outcome = loop.train(config, tmp_path / "w", programs)
  assert (outcome.step, outcome.missing) == (2, RequiredDataset(config.data, 1, "learn", negative=False))
  windows.write_dataset(tmp_path / "data")
  assert loop.train(config, tmp_path / "w", programs).step == 4


def test_processes_agree(folder, programs, monkeypatch, tmp_path):
  """What is missing on another host only is missing here too."""
  run = loop.Run(config_of(folder), tmp_path, programs, None, loop.Throughput())
  assert run.missing(0) is None
  monkeypatch.setattr(processes, "any_process", lambda flag: True)
  monkeypatch.setattr(processes, "run_on_all", lambda act: act())
  assert run.missing(0) == RequiredDataset(str(folder / "data"), 0, "learn", negative=False)


def command_line_of(folder, tmp_path, **fields) -> list[str]:
  path = runs.write_config(dataclasses.replace(config_of(folder), **fields), tmp_path / "config.py")
  return [f"--config={path}", f"--workdir={tmp_path / 'w'}", "--config.program_cache=",
          "--config.mesh.data=4", "--config.mesh.tensor=2"]


def test_the_command_line_says_how_to_go_on(folder, tmp_path, caplog, monkeypatch):
  missing = RequiredDataset(str(tmp_path / "da ta"), 1, "hands", negative=True)
  monkeypatch.setattr(loop, "train", lambda *_, **__: loop.Outcome(2, True, missing))
  with caplog.at_level(std_logging.INFO):
    assert run_train.main(command_line_of(folder, tmp_path)) == 75
  assert f"--manifest={tmp_path}/w/stage_1/clips.jsonl '--out={tmp_path}/da ta'" in caplog.text


def test_a_run_does_not_begin_without_its_data(folder, tmp_path):
  """There is nothing yet that could go on: the path is wrong, or nothing was prepared."""
  with pytest.raises(InputError, match="learns from .*absent, where there is no dataset.\nMake one"):
    run_train.main(command_line_of(folder, tmp_path, data=str(tmp_path / "absent")))
  assert not (tmp_path / "w/checkpoints").exists() or not list((tmp_path / "w/checkpoints").iterdir())


def test_negatives_are_prepared_as_the_data_are(folder):
  """In windows of their length and sizes, where these are not the default ones."""
  command = ["python", "run_train.py", "--config=c.py", "--workdir=w"]
  told = commands_for(RequiredDataset("neg", 1, "hands", True), config_of(folder), pathlib.Path("w"), command)
  assert told.splitlines()[1:] == [
      "  python run_train.py --config=c.py --workdir=w --export=w/stage_1/model",
      "  python run_sample.py --config=configs/SAMPLING.py --checkpoint=w/stage_1/model "
      "--manifest=w/stage_1/jobs.jsonl --save_latents --out=w/stage_1/clips",
      "  python -m emv3_jax.preparation --config.prepare.frames=5 "
      "'--config.prepare.sizes=((32,48),(48,32))' --checkpoint=w/stage_1/model "
      "--manifest=w/stage_1/clips.jsonl --out=neg",
      "  python run_train.py --config=c.py --workdir=w"]


@pytest.mark.parametrize("name, network", [
    ("train_tiny", "tiny"), ("train_sft_480p", "echomimic_v3_preview")])
def test_shipped_sampling_configs_are_known_by_their_network(name, network):
  values = importlib.import_module(f"configs.{name}").get_config()
  assert shipped(build(Config, values)) == network


@pytest.mark.parametrize("made_by, warned", [("", False), ("this", False), ("other", True)])
def test_negatives_of_other_weights_are_told(folder, programs, negatives, tmp_path, monkeypatch, caplog,
                                             made_by, warned):
  index = json.loads((negatives() / "index.json").read_text())
  (folder / "negatives/index.json").write_text(json.dumps({**index, "made_by": made_by}))
  run = loop.Run(config_of(folder), tmp_path, programs, None, loop.Throughput())
  monkeypatch.setattr(run.stage_start, "save", lambda *_: None)
  monkeypatch.setattr(run.stage_start, "digest", {2: "this"}.get)
  with caplog.at_level(std_logging.WARNING):
    run.save_stage_start({}, stage_position(run.stages, 2))
  assert ("stages.1 ('hands')" in caplog.text and "other weights (other)" in caplog.text) == warned
