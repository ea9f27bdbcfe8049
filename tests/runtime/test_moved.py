"""Names of version 0.1 lead to those of today."""

import importlib
import importlib.util
import subprocess
import sys

import pytest

from emv3_jax.errors import InputError
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime import moved
from emv3_jax.sampling import settings as sampling
from emv3_jax.training import settings as training


@pytest.mark.parametrize("old", moved.MODULES)
def test_modules_are_where_the_table_says(old):
  assert importlib.import_module(moved.MODULES[old])
  if old != "emv3_jax.data.puppets":  # the command of that name still runs
    assert importlib.util.find_spec(old) is None


@pytest.mark.parametrize("line, old, new", [
    ("import emv3_jax.model_config", "emv3_jax.model_config", "emv3_jax.components.config"),
    ("from emv3_jax.tasks import schedule", "emv3_jax.tasks.schedule", "emv3_jax.training.curriculum"),
    ("from emv3_jax.data.preparation.settings import PrepareConfig", "emv3_jax.data.preparation",
     "emv3_jax.preparation")])
def test_a_config_of_before_is_told_the_new_module(tmp_path, line, old, new):
  file = tmp_path / "old.py"
  file.write_text(f'"""Old."""\n{line}\n')
  with pytest.raises(InputError, match=rf"old.py, line 2, imports {old}, which is {new} now"):
    config_lib.read_config_file(file)


def test_a_config_of_before_is_told_the_new_field(tmp_path):
  with pytest.raises(InputError, match="config.preview has no field 'sampling'; It is config.sampling now."):
    config_lib.build(training.Config, {"name": "old", "preview": {"sampling": {"steps": 3}}})
  with pytest.raises(InputError, match="did you mean 'steps'"):
    config_lib.build(sampling.Config, {"name": "old", "sampling": {"stepz": 3}})


def test_the_command_of_before_still_runs():
  said = subprocess.run([sys.executable, "-m", "emv3_jax.data.prepare", "--help"], capture_output=True, text=True)
  assert said.returncode == 0 and "--manifest" in said.stdout
  assert said.stderr.startswith("python -m emv3_jax.data.prepare is python -m emv3_jax.preparation now.")
