"""The command line of training: what it prints and what it refuses before any work."""

import json

import pytest

from emv3_jax.commands import train as run_train
from emv3_jax.errors import InputError
from tests.training import runs


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
  folder = tmp_path_factory.mktemp("command")
  return runs.write_config(runs.config_of(folder), folder / "config.py")


def test_print_config(config_file, capsys):
  assert run_train.main([f"--config={config_file}", "--config.train.steps=3",
                         "--print_config"]) == 0
  printed = json.loads(capsys.readouterr().out)
  assert printed["train"]["steps"] == 3 and len(printed["stages"]) == 2


@pytest.mark.parametrize("name", ["train_tiny", "train_tiny_long", "train_sft_480p"])
def test_shipped_configs(name, capsys):
  assert run_train.main([f"--config=configs/{name}.py", "--print_config"]) == 0
  assert json.loads(capsys.readouterr().out)["name"] == name


@pytest.mark.parametrize("arguments, message", [
    ([], "--workdir is missing"),
    (["--workdir=gs://b/runs"], "Folder of the run gs://b/runs is an address"),
    (["--workdir=w", "--export=s3://b/m"], "Model folder s3://b/m is an address"),
    (["--workdir=w", "--profile_steps=5"], "no range of steps"),
    (["--workdir=w", "--mesh=data=2"], "--mesh and --json go with --plan"),
    (["--workdir=w", "--config.train.stepps=3"], "did you mean 'steps'"),
    (["--workdir=w", "--config.train.batch=0"], "train.batch is 0; it must be 1 or more"),
    (["--workdir=w", "--coordinator=a:1"], "go together"),
    (["--workdir=w", "--export"], "holds no checkpoints")])
def test_mistakes(config_file, arguments, message):
  with pytest.raises(InputError, match=message):
    run_train.main([f"--config={config_file}", "--config.program_cache=", *arguments])


def test_mistakes_end_in_a_line(config_file, tmp_path):
  said = runs.finish(runs.start(config_file, tmp_path / "w", "--config.data="), code=2)
  assert "names no dataset" in said and "Traceback" not in said


def test_divergence_has_its_own_exit_code(config_file, tmp_path):
  process = runs.start(config_file, tmp_path / "w", "--config.train.max_loss=0.1")
  said = runs.finish(process, code=1)
  assert "Stopped: in step 1 loss is" in said and "Traceback" not in said
  assert (tmp_path / "w" / "diverged_1.json").exists()
