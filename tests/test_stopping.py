"""Stopped by SIGTERM or Ctrl-C, command lines exit with 75 and leave nothing half-written."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.commands import sample as run_sample
from emv3_jax.errors import Stopped
from emv3_jax.io.atomic import atomic_file
from emv3_jax.jobs import sampler
from emv3_jax.puppets.training import loop
from emv3_jax.runtime import command_line
from emv3_jax.sampling import fingerprint
from emv3_jax.sampling.clip import Clip
from tests.puppets.test_part_training import LEARNING, STEPS, batch_at, loss, records
from tests.puppets.test_part_training import run as train

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "emv3_jax/assets/tiny"
_AT_WORK = """
import pathlib, sys, time
from emv3_jax.runtime import command_line
from emv3_jax.io.atomic import atomic_file

def main(arguments):
  with atomic_file(pathlib.Path(arguments[0]) / "clip.mp4") as temporary:
    temporary.write_text("half")
    time.sleep(60)

command_line.run(main)
"""


@pytest.fixture
def run(monkeypatch):
  """Runs a command line in this process; gives its exit code."""
  before = signal.getsignal(signal.SIGTERM)
  # Shells have programs in the background ignore it.
  before_int = signal.signal(signal.SIGINT, signal.default_int_handler)

  def run(main, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
      command_line.run(main)
    return ended.value.code

  yield run
  signal.signal(signal.SIGTERM, before)
  signal.signal(signal.SIGINT, before_int)


def test_a_stopped_process(tmp_path):
  process = subprocess.Popen([sys.executable, "-c", _AT_WORK, tmp_path], cwd=ROOT, text=True,
                             stderr=subprocess.PIPE)
  try:
    while not any(tmp_path.iterdir()):
      assert process.poll() is None, process.communicate()[1]
      time.sleep(0.01)
    for _ in range(2):  # some schedulers send it twice
      process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
  finally:
    process.kill()
  assert process.returncode == 75 and "Traceback" not in said
  assert said.splitlines()[-1] == "Stopped by SIGTERM; the same command goes on."
  assert not list(tmp_path.iterdir())


def test_ctrl_c(run, tmp_path, capsys):
  def main(_):
    with atomic_file(tmp_path / "clip.mp4"):
      os.kill(os.getpid(), signal.SIGINT)

  assert run(main) == 75 and not list(tmp_path.iterdir())
  assert capsys.readouterr().err.endswith("Stopped by Ctrl-C; the same command goes on.\n")


def test_a_stopped_manifest_keeps_what_is_done(run, tmp_path, monkeypatch):
  made = []

  def sample(model, request, **_):
    made.append(len(made))
    if len(made) == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return Clip(np.zeros((5, 32, 32, 3), np.uint8), 25, (np.zeros((3200, 1), np.float32), 16000),
                np.zeros(1), {"config": {"name": "tiny", "sampling": {"enlarge": 1}}, "seed": 7,
                              "seconds": {}, **fingerprint.provenance(model, request)})

  monkeypatch.setattr(sampler, "stream", sample)
  job = {"audio": str(TINY / "speech.wav"), "image": str(TINY / "portrait.png")}
  manifest = tmp_path / "jobs.jsonl"
  manifest.write_text("".join(json.dumps({**job, "name": name}) + "\n" for name in "abc"))
  arguments = (f"--config={ROOT}/configs/tiny.py", "--config.program_cache=",
               f"--manifest={manifest}", f"--out={tmp_path / 'clips'}")
  assert run(run_sample.main, *arguments) == 75
  there = lambda: sorted(path.name for path in (tmp_path / "clips").iterdir())
  assert there() == ["a.json", "a.mp4", "report.jsonl"]
  assert run(run_sample.main, *arguments) == 0
  assert len(made) == 4 and len(there()) == 7, "what was done is not done again"


def test_a_part_of_the_default_stops_with_a_checkpoint(tmp_path):
  whole, parted = tmp_path / "whole", tmp_path / "parted"

  def asked(step):
    if step == 4:
      os.kill(os.getpid(), signal.SIGTERM)
    return batch_at(step)

  train(whole, STEPS)
  with pytest.raises(Stopped, match="after step 5 of 7"):
    loop.train(loop.initial_state({"w": jnp.zeros(3)}, LEARNING, STEPS),
               loop.make_step(loss, LEARNING, STEPS), asked, steps=STEPS, folder=parted,
               save_every=100, log_every=1)
  train(parted, STEPS)
  assert records(parted) == records(whole)
