"""Runs small enough for tests: a config file and a dataset, for processes of their own."""

from collections.abc import Callable
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from emv3_jax.io import checkpoints
from emv3_jax.models import transformer
from emv3_jax.models.precision import FLOAT32
from emv3_jax.training.curriculum import Mixture, Stage
from emv3_jax.training.settings import Config, OptimizerConfig
from tests.compiler import QUICK_FLAGS
from tests.data import windows
from tests.training import tiny

ROOT = pathlib.Path(__file__).parents[2]
NETWORK = dataclasses.replace(
    windows.CONFIG, dim=48, ffn_dim=64, num_heads=4, num_layers=2, freq_dim=16)
STAGES = (Stage("base", 8, Mixture(i2v=1.0, flf2v=1.0), warmup=2, audio=False),
          Stage("all", 100, Mixture(1.0, 1.0, 1.0, 1.0), learning_rate=1e-3))
_FILE = """\
import json
import ml_collections

def get_config():
  return ml_collections.ConfigDict(json.loads({text!r}))
"""


def config_of(folder: pathlib.Path, stages=STAGES, **train) -> Config:
  """A config whose dataset, of 7 records, and first weights lie in `folder`; made where absent."""
  data, weights = folder / "data", folder / "weights"
  if not data.exists():
    windows.write_dataset(data, shards=((4, 0), (3, 0)))
    # Drawing them in every run would take longer than the run.
    checkpoints.save_component(weights, "transformer",
                               tiny.params_of(transformer.network(NETWORK, FLOAT32)),
                               config=dataclasses.asdict(NETWORK), variant="preview")
  # With Adam's own eps the first steps take the sign of gradients that are zero but for rounding.
  config = tiny.config_of(*stages, network=NETWORK, checkpoint=str(weights), data=str(data),
                          program_cache=str(folder / "programs"), ema_decay=0.9,
                          optimizer=OptimizerConfig(eps=1e-3))
  train = {"steps": 12, "batch": 4, "log_every": 3, "checkpoint_every": 5, "remat": "none", **train}
  return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def write_config(config: Config, path: pathlib.Path) -> pathlib.Path:
  """A config file for the command line."""
  path.write_text(_FILE.format(text=json.dumps(dataclasses.asdict(config))))
  return path


def start(config_file, workdir, *arguments: str, devices: int = 1) -> subprocess.Popen:
  """`run_train.py` in a process of its own with so many CPU devices."""
  flags = f"--xla_force_host_platform_device_count={devices} {QUICK_FLAGS}"
  return subprocess.Popen(
      [sys.executable, "run_train.py", f"--config={config_file}", f"--workdir={workdir}",
       *arguments], cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_all(config_file, workdir, *arguments: str, processes: int,
              devices: int) -> list[subprocess.Popen]:
  """Several processes of one run, with so many devices each."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{probe.getsockname()[1]}"
  return [start(config_file, workdir, *arguments, f"--coordinator={address}",
                f"--num_processes={processes}", f"--process_id={index}", devices=devices)
          for index in range(processes)]


def finish(*processes: subprocess.Popen, code: int = 0) -> str:
  """Waits for processes that are to end with `code`; returns what they said."""
  try:
    said = [process.communicate(timeout=240)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(said)
  return "\n".join(said)


def wait_until(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
  """Waits, while the process runs, until something is so."""
  while not condition():
    assert process.poll() is None, process.communicate()[0]
    time.sleep(0.002)


def last_line(workdir: pathlib.Path) -> int:
  """Step of the newest line of metrics; 0 before there is one."""
  path = workdir / "metrics.jsonl"
  text = path.read_text() if path.exists() else ""
  return json.loads(text[:text.rindex("\n")].splitlines()[-1])["step"] if "\n" in text else 0


def records(workdir: pathlib.Path) -> list[dict]:
  """The records of metrics without what depends on the clock."""
  clock = ("seconds", "clips", "tokens", "input", "memory")
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [{name: value for name, value in line.items() if not name.startswith(clock)}
          for line in lines]


def saved_steps(workdir: pathlib.Path) -> list[int]:
  folder = workdir / "checkpoints"
  return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def arrays(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """Every array of a checkpoint, by its path."""
  with ocp.training.Checkpointer((workdir / "checkpoints").absolute()) as checkpointer:
    leaves = checkpointer.metadata(step).metadata
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), leaves)
    state = checkpointer.load(step, abstract)
  return {jax.tree_util.keystr(path): np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}
