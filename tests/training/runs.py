"""Runs small enough for tests: a config file and a dataset, for processes of their own too."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from emv3_jax.tasks.schedule import Mixture, Stage
from tests.data import windows
from tests.training import tiny

ROOT = pathlib.Path(__file__).parents[2]
NETWORK = dataclasses.replace(
    windows.CONFIG, dim=48, ffn_dim=64, num_heads=4, num_layers=2, freq_dim=16)
STAGES = (Stage("base", 4, Mixture(i2v=1.0, flf2v=1.0), warmup=2, audio=False),
          Stage("all", 100, Mixture(1.0, 1.0, 1.0, 1.0), learning_rate=1e-3))
_FILE = '''
import dataclasses, json, ml_collections
def get_config():
  return ml_collections.ConfigDict(json.loads({text!r}))
'''


def config_of(folder: pathlib.Path, **train):
  """A config whose dataset, of 7 records, lies in `folder`; it is written where absent."""
  data = folder / "data"
  if not data.exists():
    windows.write_dataset(data, shards=((4, 0), (3, 0)))
  config = tiny.config_of(*STAGES, network=NETWORK, checkpoint="untrained", data=str(data),
                          program_cache=str(folder / "programs"))
  train = {"steps": 8, "batch": 4, "log_every": 2, "checkpoint_every": 3, "remat": "none", **train}
  return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def write_config(config, path: pathlib.Path) -> pathlib.Path:
  """A config file for the command line."""
  path.write_text(_FILE.format(text=json.dumps(dataclasses.asdict(config))))
  return path


def start(config_file, workdir, *arguments, devices: int = 1) -> subprocess.Popen:
  """`run_train.py` in a process of its own."""
  environment = {**os.environ, "JAX_PLATFORMS": "cpu",
                 "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
  return subprocess.Popen(
      [sys.executable, "run_train.py", f"--config={config_file}", f"--workdir={workdir}",
       *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      text=True)


def losses(workdir: pathlib.Path) -> dict[int, float]:
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def told(workdir: pathlib.Path) -> list[dict]:
  """The lines of metrics without what depends on the clock."""
  clock = ("seconds", "clips", "tokens", "input", "flops")
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{name: value for name, value in line.items() if not name.startswith(clock)}
          for line in lines]


def arrays(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """Every array of a checkpoint, by its path."""
  import jax
  from orbax.checkpoint import v1 as ocp

  with ocp.training.Checkpointer(workdir.absolute() / "checkpoints") as checkpointer:
    state = checkpointer.load(step)
  return {jax.tree_util.keystr(path): np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}
