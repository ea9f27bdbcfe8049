"""Metrics in wandb beside TensorBoard, with a module in its place; once with wandb itself where it is."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from emv3_jax.errors import InputError
from emv3_jax.training.monitor import wandb_run
from emv3_jax.training.monitor.metrics import Writer
from emv3_jax.training.monitor.wandb_run import WandbRun
from emv3_jax.training.settings import TrainConfig

CONFIG = TrainConfig(wandb="people", wandb_name="first", wandb_mode="offline")


class Stub(ModuleType):
  """As much of wandb as is used: runs by id, each with the records that it was given."""

  def __init__(self):
    super().__init__("wandb")
    self.begun, self.runs = [], {}
    self.Settings = lambda **settings: settings

  def init(self, **arguments):
    self.begun.append(arguments)
    run = self.runs.setdefault(arguments["id"], SimpleNamespace(step=0, records=[], ends=[]))

    def log(values, step):
      run.step = step
      run.records.append((step, values))

    run.log, run.finish = log, lambda exit_code: run.ends.append(exit_code)
    return run


@pytest.fixture
def stub(monkeypatch):
  stub = Stub()
  monkeypatch.setitem(sys.modules, "wandb", stub)
  return stub


def test_records_go_to_both(stub, tmp_path):
  with Writer(tmp_path, 0, WandbRun(tmp_path, CONFIG, {"seed": 7})) as writer:
    writer.write({"step": 2, "stage": "a", "loss": 0.5})
    writer.write({"step": 2, "loss": 0.25}, "held_out")
  (begun,), (run,) = stub.begun, stub.runs.values()
  assert run.records == [(2, {"loss": 0.5}), (2, {"held_out/loss": 0.25})] and run.ends == [0]
  assert (begun["project"], begun["name"], begun["mode"]) == ("people", "first", "offline")
  assert begun["config"] == {"seed": 7} and begun["dir"] == str(tmp_path)
  assert list((tmp_path / "tensorboard").iterdir())


def test_a_run_that_resumes_has_its_id(stub, tmp_path):
  """What is made again is there already; another project begins another run."""
  for first, steps in ((0, (2, 4)), (2, (4, 6))):
    with Writer(tmp_path, first, WandbRun(tmp_path, CONFIG, {})) as writer:
      for step in steps:
        writer.write({"step": step, "loss": step / 2})
  run, = stub.runs.values()
  assert [step for step, _ in run.records] == [2, 4, 4, 6] and run.ends == [0, 0]
  with Writer(tmp_path, 2, WandbRun(tmp_path, CONFIG, {})) as writer:
    writer.write({"step": 4, "loss": 2.0})
  assert run.step == 6, "it did not go back"
  assert {begun["resume"] for begun in stub.begun} == {"allow"}
  WandbRun(tmp_path, TrainConfig(wandb="others"), {})
  assert len(stub.runs) == 2 and json.loads((tmp_path / "wandb.json").read_text())["project"] == "others"


def test_an_error_ends_the_run_there_and_not_the_training(stub, tmp_path, caplog):
  with pytest.raises(ZeroDivisionError), Writer(tmp_path, 0, WandbRun(tmp_path, CONFIG, {})) as writer:
    run, = stub.runs.values()
    run.log = lambda *_, **__: 1 / 0
    for step in (1, 2):
      writer.write({"step": step, "loss": 0.5})
    assert caplog.text.count("wandb takes no more records, from step 1 on (division by zero)") == 1
    raise ZeroDivisionError
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_run_that_fails_is_told_so(stub, tmp_path):
  with pytest.raises(InputError), Writer(tmp_path, 0, WandbRun(tmp_path, CONFIG, {})):
    raise InputError("no")
  assert [run.ends for run in stub.runs.values()] == [[1]]


def test_what_cannot_begin_is_told(stub, tmp_path, monkeypatch):
  def refuse(**_):
    raise RuntimeError("No API key configured.\nMore")

  monkeypatch.setattr(stub, "init", refuse)
  with pytest.raises(InputError, match="could not begin: No API key configured.\nRun wandb login, or set train."):
    WandbRun(tmp_path, CONFIG, {})
  (tmp_path / "wandb.json").write_text("[]")
  with pytest.raises(InputError, match=r"wandb.json cannot be read \(TypeError\); remove it"):
    WandbRun(tmp_path, CONFIG, {})


@pytest.mark.parametrize("module", [None, ModuleType("wandb")], ids=["absent", "a folder of that name"])
def test_a_package_that_is_not_installed_is_named(monkeypatch, module):
  monkeypatch.setitem(sys.modules, "wandb", module)
  with pytest.raises(InputError, match=r"train.wandb is set and wandb cannot be .*\n.*pip install 'emv3-jax\[wandb\]'"):
    wandb_run.import_wandb()


def test_modes():
  with pytest.raises(InputError, match="train.wandb_mode is 'off'; known: online, offline"):
    TrainConfig(wandb_mode="off")


def test_wandb_itself_without_a_network(tmp_path, monkeypatch):
  """Two starts of one run; no key is written anywhere."""
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
  for first, step in ((0, 2), (2, 4)):
    with Writer(tmp_path, first, WandbRun(tmp_path, CONFIG, {"seed": 7})) as writer:
      writer.write({"step": step, "loss": step / 2})
  folders = list((tmp_path / "wandb").glob("offline-run-*"))
  run_id = json.loads((tmp_path / "wandb.json").read_text())["id"]
  assert folders and all(folder.name.endswith(run_id) for folder in folders)
  written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
  assert b"loss" in written and b"0123456789" * 4 not in written
