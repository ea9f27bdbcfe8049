"""Runs in this process: what they write, what stops them, what they refuse to go on from."""

import dataclasses
import itertools
import json
import os
import resource
import shutil
import signal
import sys

import chex
import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import load_component, read_model_card
from emv3_jax.io.video_files import read_video
from emv3_jax.models.network import named_leaves
from emv3_jax.runtime import program_cache
from emv3_jax.sampling.clip import Clip
from emv3_jax.sharding import MeshConfig
from emv3_jax.tasks import names
from emv3_jax.training import loop
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.monitor import previews
from emv3_jax.training.monitor.divergence import Diverged
from emv3_jax.training.monitor.metrics import BANDS
from emv3_jax.training.monitor.throughput import Throughput
from emv3_jax.training.run.export import export_newest
from emv3_jax.training.run.lock import locked
from emv3_jax.training.settings import NDPOConfig, PreviewConfig
from emv3_jax.training.update.programs import TrainPrograms
from tests.data import windows
from tests.training import runs, tiny
from tests.training.test_wandb import Stub


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("loop")


@pytest.fixture(scope="module", autouse=True)
def compiled_programs(folder):
  """Runs of one process share what they compile, as those of several do."""
  before = jax.config.jax_compilation_cache_dir
  program_cache.use(folder / "programs", required=True)
  yield
  jax.config.update("jax_compilation_cache_dir", before)
  compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def programs(folder):
  """Of the schedule of all runs here, compiled once."""
  return tiny.programs_of(runs.config_of(folder))


class AtStep(Throughput):
  """Does something while a step runs."""

  def __init__(self, step, act):
    super().__init__()
    self._when, self._act = step, act

  def count(self, step, shape, stalled):
    super().count(step, shape, stalled)
    if step == self._when:
      self._act()


def test_a_whole_run(folder, programs, tmp_path):
  config = runs.config_of(folder, steps=7, log_every=2, checkpoint_every=3)
  assert loop.train(config, tmp_path, programs, profile=(4, 6)) == loop.Outcome(7, False)
  lines = runs.records(tmp_path)
  assert [line["step"] for line in lines] == [2, 4, 6]
  assert {line["stage"] for line in lines} == {"base"}
  assert {"loss", "grad_norm", "update_norm", "learning_rate", "loss/i2v"} <= lines[0].keys()
  timed = [json.loads(line) for name in ("metrics", "end")
           for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
  parts = {f"seconds/{part}" for part in ("data", "step", "checkpoint", "previews")}
  assert all(parts | {"memory/host_peak_gib"} < line.keys() for line in timed)
  assert timed[0]["seconds/step"] > 0 and timed[0]["memory/host_peak_gib"] > 0.05
  assert timed[-1]["step"] == 7 and min(timed[-1][f"seconds/{part}"] for part in ("checkpoint", "export")) > 0
  assert runs.saved_steps(tmp_path) == [6, 7]
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))
  described = json.loads((tmp_path / "config.json").read_text())
  assert described["config"]["train"]["steps"] == 7 and described["versions"]["jax"]

  average = load_component(tmp_path / "model", "transformer", programs.network.abstract,
                           variant="preview")
  saved = runs.arrays(tmp_path, 7)
  for name, leaf in named_leaves(average).items():
    stored = "['ema']" + "".join(f"['{part}']" for part in name.split("."))
    np.testing.assert_array_equal(leaf, saved[stored], err_msg=name)

  # A killed run may not have come to write it.
  shutil.rmtree(tmp_path / "model")
  assert loop.train(config, tmp_path, programs).step == 7
  assert "transformer" in read_model_card(tmp_path / "model").components


def test_one_program_for_all_steps(folder, programs, tmp_path):
  loop.train(runs.config_of(folder, steps=12), tmp_path, programs)
  assert {line["stage"] for line in runs.records(tmp_path)} == {"base", "all"}
  assert programs.train_step_at(0) is programs.train_step_at(11)
  assert tiny.num_compiled(programs.train_step_at(0)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_with_a_checkpoint(folder, programs, tmp_path, number):
  before = signal.getsignal(number)
  ask = AtStep(2, lambda: os.kill(os.getpid(), number))
  config = runs.config_of(folder, steps=50, checkpoint_every=0)
  assert loop.train(config, tmp_path, programs, throughput=ask) == loop.Outcome(3, True)
  assert runs.saved_steps(tmp_path) == [3] and not (tmp_path / "model").exists()
  assert signal.getsignal(number) is before


def test_asked_before_the_first_step(folder, programs, tmp_path, monkeypatch):
  def slow(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    return start(*arguments)

  start = loop.initial_params
  monkeypatch.setattr(loop, "initial_params", slow)
  assert loop.train(runs.config_of(folder), tmp_path, programs) == loop.Outcome(0, True)
  assert runs.saved_steps(tmp_path) == []


def test_a_second_interrupt_does_not_wait(folder, programs, tmp_path):
  def twice():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)

  with pytest.raises(KeyboardInterrupt):
    loop.train(runs.config_of(folder), tmp_path, programs, throughput=AtStep(1, twice))


def test_resumed_lines_are_those_of_an_unbroken_run(folder, programs, tmp_path):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  loop.train(runs.config_of(folder, steps=9), whole, programs)
  for steps in (4, 5, 9):  # inside of lines of 3 steps
    loop.train(runs.config_of(folder, steps=steps), parts, programs)
  assert runs.records(parts) == runs.records(whole)


def test_without_wandb_a_run_that_wants_it_does_not_begin(folder, programs, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  monkeypatch.setattr(loop, "Sources", lambda _: pytest.fail("work was begun"))
  with pytest.raises(InputError, match="pip install"):
    loop.train(runs.config_of(folder, wandb="people"), tmp_path, programs)
  assert not (tmp_path / "config.json").exists()


@pytest.fixture(scope="module")
def resumed(folder, programs, tmp_path_factory):
  """Folder and runs of wandb of a run of a step, and of another one after it was started again."""
  stub, workdir = Stub(), tmp_path_factory.mktemp("resumed")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, "wandb", stub)
    for steps in (1, 2):
      loop.train(runs.config_of(folder, steps=steps, log_every=1, wandb="people"), workdir, programs)
  return workdir, stub.runs


def test_a_run_and_its_resumption_are_one_of_wandb(resumed):
  run, = resumed[1].values()
  assert [step for step, values in run.records if "loss" in values] == [1, 2] and run.ends == [0, 0]
  assert "seconds/step" in run.records[0][1] and "end/seconds/export" in run.records[-1][1]


def test_going_on_from_another_run(folder, programs, resumed, tmp_path, caplog):
  """Its average and nothing else; told, and kept in config.json when this run resumes."""
  one = resumed[0]
  config = dataclasses.replace(runs.config_of(folder, steps=1, log_every=1), checkpoint=str(one), seed=8)
  with caplog.at_level("INFO"):
    loop.train(config, tmp_path, programs)
  digest = read_model_card(one / "model").components["transformer"].digest
  assert (f"The first weights are the average of run {one} ('tiny') after 2 steps, digest {digest[:12]}; all else starts "
          "from zero: step, moments") in caplog.text
  start = lambda: json.loads((tmp_path / "config.json").read_text())["start"]
  assert start() == {"from": "run", "folder": str(one), "step": 2, "name": "tiny", "digest": digest}
  assert [line["step"] for line in runs.records(tmp_path)] == [1]
  loop.train(dataclasses.replace(config, checkpoint=str(one / "model")), tmp_path, programs)
  assert start()["step"] == 2 and start()["folder"] == str(one)


def test_divergence_leaves_the_batch_and_the_checkpoint(folder, programs, tmp_path, monkeypatch):
  loop.train(runs.config_of(folder, steps=1), tmp_path, programs)
  start = loop.Run.initialize

  def spoilt(run, checkpoints):
    state, step = start(run, checkpoints)
    return {**state, "params": jax.tree.map(lambda leaf: leaf * np.nan, state["params"])}, step

  monkeypatch.setattr(loop.Run, "initialize", spoilt)
  with pytest.raises(Diverged, match="in step 2 loss is nan"):
    loop.train(runs.config_of(folder, steps=9, checkpoint_every=1), tmp_path, programs)
  left = json.loads((tmp_path / "diverged_2.json").read_text())
  assert left["loss"] == "nan" and left["why"] == "loss is nan" and len(left["batch"]) == 4
  for clip in left["batch"]:
    assert clip["id"] == f"clip {clip['record']} ü" and clip["task"] in ("i2v", "flf2v")
  assert runs.saved_steps(tmp_path) == [1] and runs.last_line(tmp_path) == 0


def test_too_large_a_loss_stops(folder, programs, tmp_path):
  with pytest.raises(Diverged, match="above train.max_loss 0.5"):
    loop.train(runs.config_of(folder, max_loss=0.5), tmp_path, programs)
  assert runs.saved_steps(tmp_path) == []


def test_one_run_in_a_folder(folder, programs, tmp_path):
  with (locked(tmp_path), pytest.raises(InputError, match=f'at work in.*"pid": {os.getpid()}')):
    loop.train(runs.config_of(folder), tmp_path, programs)
  with locked(tmp_path):  # the file is still there, nobody holds it
    pass


def test_a_folder_that_cannot_be_used(folder, programs, tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(InputError, match="cannot be used"):
    loop.train(runs.config_of(folder), tmp_path / "file", programs)


def test_another_config_is_refused(folder, programs, tmp_path):
  config = runs.config_of(folder, steps=2, log_every=1)
  loop.train(config, tmp_path, programs)
  stage = dataclasses.replace(config.stages[0], learning_rate=0.5)
  other = dataclasses.replace(config, seed=8, ema_decay=0.5, stages=(stage, config.stages[1]),
                              train=dataclasses.replace(config.train, batch=2))
  with pytest.raises(InputError) as refused:
    loop.train(other, tmp_path, programs)
  for field in ("seed: 7 != 8", "ema_decay: 0.9 != 0.5", "stages.0.learning_rate: 0.0001 != 0.5",
                "train.batch: 4 != 2"):
    assert field in str(refused.value)

  windows.write_dataset(tmp_path / "data", shards=((6, 0),))
  with pytest.raises(InputError, match="dataset.data: "):
    loop.train(dataclasses.replace(config, data=str(tmp_path / "data")), tmp_path,
               programs)

  may = dataclasses.replace(config, name="n", train=dataclasses.replace(
      config.train, steps=3, log_every=3, keep=5, max_loss=7.0))
  assert loop.train(may, tmp_path, programs).step == 3


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(folder, programs, tmp_path, monkeypatch):
  loop.train(runs.config_of(folder, steps=2), tmp_path, programs)
  with monkeypatch.context() as patch:
    patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(InputError, match=r"1,000 free\); .*checkpoints/2 is whole"):
      loop.train(runs.config_of(folder, steps=3), tmp_path, programs)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # what is written fails midway
  try:
    with pytest.raises(InputError, match="checkpoints/3 could not be written .*checkpoints/2 is"):
      loop.train(runs.config_of(folder, steps=3), tmp_path, programs)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert runs.saved_steps(tmp_path) == [2]
  assert loop.train(runs.config_of(folder, steps=3), tmp_path, programs).step == 3


def test_a_damaged_checkpoint_is_told(folder, programs, tmp_path):
  loop.train(runs.config_of(folder, steps=2), tmp_path, programs)
  for path in (tmp_path / "checkpoints" / "2" / "state").rglob("manifest.ocdbt"):
    path.write_bytes(b"")
  with pytest.raises(InputError, match="checkpoints/2 cannot be read"):
    loop.train(runs.config_of(folder, steps=3), tmp_path, programs)


def test_batches_that_do_not_divide(folder, tmp_path):
  config = dataclasses.replace(runs.config_of(folder), mesh=MeshConfig(data=3))
  with pytest.raises(InputError, match="batch of 4 does not divide over data 3"):
    loop.train(config, tmp_path, tiny.programs_of(config))
  with pytest.raises(InputError, match="takes 3 devices, there are 8"):
    TrainPrograms(config)


def test_negatives_beside_data(folder, tmp_path):
  windows.write_dataset(folder / "negatives", shards=((3, 0),))
  stage = Stage("unlearn", 10, kind="ndpo", negatives=str(folder / "negatives"))
  config = dataclasses.replace(runs.config_of(folder, (stage,), steps=3, log_every=1),
                               ndpo=NDPOConfig(beta=1.0, sft_weight=0.5))
  programs, whole, parts = tiny.programs_of(config), tmp_path / "whole", tmp_path / "parts"
  loop.train(config, whole, programs)
  first, second, _ = runs.records(whole)
  assert first["kind"] == "ndpo" and first["stage"] == "unlearn"
  assert first["d"] == pytest.approx(first["d_ref"], rel=1e-6)
  assert second["d"] != pytest.approx(second["d_ref"], rel=1e-6)
  assert first["loss"] == pytest.approx(np.log(2) + 0.5 * first["positive_error"], rel=1e-5)

  # Weights and average have left the reference when the run is stopped.
  short = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2))
  loop.train(short, parts, programs)
  loop.train(config, parts, programs)
  assert runs.records(parts) == runs.records(whole)
  found, wanted = runs.arrays(parts, 3), runs.arrays(whole, 3)
  chex.assert_trees_all_equal(found, wanted)
  assert {"reference", "calibration"} < {name.split("'")[1] for name in found}


def test_nothing_else_moves_between_host_and_device(folder, programs, tmp_path, monkeypatch):
  """The first call may place constants; arrays left on the host end the step after it."""
  def on_the_host(batches, step):
    made = take(batches, step)
    return dataclasses.replace(made, batch=dataclasses.replace(
        made.batch, text=np.asarray(made.batch.text)))

  take = loop.Prefetcher.take
  monkeypatch.setattr(loop.Prefetcher, "take", on_the_host)
  with pytest.raises(RuntimeError, match="Disallowed host-to-device transfer"):
    loop.train(runs.config_of(folder, log_every=1), tmp_path, programs)
  assert runs.last_line(tmp_path) == 0 and runs.saved_steps(tmp_path) == []


def test_clips_of_the_average(folder, programs, tmp_path, monkeypatch):
  """What is sampled is written as previews/STEP.mp4, whatever is sampled."""
  averages = []

  class Sampler:
    def __init__(self, config):
      assert config.preview.audio

    def sample(self, average):
      averages.append(jax.device_get(average))
      return Clip(np.full((3, 32, 32, 3), 90, np.uint8), 25, (np.zeros((1920, 1), np.float32), 16000),
                  np.zeros(1), {"config": {"name": "tiny", "sampling": {"enlarge": 1}}, "seed": 7})

  monkeypatch.setattr(previews, "ClipPreview", Sampler)
  config = dataclasses.replace(runs.config_of(folder, steps=4, preview_every=2),
                               preview=PreviewConfig(audio="voice.wav"))
  loop.train(config, tmp_path, programs, make_previews=previews.Previews)
  assert sorted(path.name for path in (tmp_path / "previews").glob("*.mp4")) == [
      "00000002.mp4", "00000004.mp4"]
  assert len(read_video(tmp_path / "previews/00000004.mp4").frames) == 3
  saved = runs.arrays(tmp_path, 4)
  for name, leaf in named_leaves(averages[1]).items():
    stored = "['ema']" + "".join(f"['{part}']" for part in name.split("."))
    np.testing.assert_array_equal(leaf, saved[stored], err_msg=name)


def test_held_out_clips(folder, programs, tmp_path):
  preview = PreviewConfig(held_out=str(folder / "data"), batches=2)
  config = dataclasses.replace(runs.config_of(folder, steps=4, preview_every=2), preview=preview)
  loop.train(config, tmp_path, programs, make_previews=previews.Previews)
  first, second = map(json.loads, (tmp_path / "held_out.jsonl").read_text().splitlines())
  assert (first["step"], second["step"]) == (2, 4)
  assert 0 < second["loss"] != first["loss"]
  bands = [f"sigma_{low}-{high}" for low, high in itertools.pairwise(BANDS)]
  tasks = [name.partition("/")[2] for name in first if name.startswith("loss/")][len(bands):]
  assert tasks and set(tasks) <= set(names())
  for name in (*bands, *tasks):
    assert first[f"linear/{name}"] == second[f"linear/{name}"] > 0 < second[f"loss/{name}"]
  assert second["loss"] == pytest.approx(np.mean([second[f"loss/{name}"] for name in bands]))


def test_export_without_checkpoints(folder, tmp_path):
  with pytest.raises(InputError, match="holds no checkpoints"):
    export_newest(runs.config_of(folder), tmp_path)


def test_previews_of_nothing(folder, programs, tmp_path):
  with pytest.raises(InputError, match="nothing to make"):
    loop.train(runs.config_of(folder, preview_every=1), tmp_path, programs,
               make_previews=previews.Previews)
  config = dataclasses.replace(runs.config_of(folder, preview_every=1), checkpoint="untrained",
                               preview=PreviewConfig(audio="voice.wav"))
  with pytest.raises(InputError, match="needs the other networks"):
    loop.train(config, tmp_path, programs, make_previews=previews.Previews)
