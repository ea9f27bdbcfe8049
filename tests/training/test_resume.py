"""Runs that are killed, stopped or moved to other devices learn what runs left alone learn."""

import random
import signal
import time

import numpy as np
import pytest

from tests.training import runs
from tests.training.runs import STAGES

STEPS, EVERY, KEPT = 30, 5, 10


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
  folder = tmp_path_factory.mktemp("resume")
  config = runs.config_of(folder, steps=STEPS, checkpoint_every=EVERY, keep_every=KEPT)
  return runs.write_config(config, folder / "config.py")


@pytest.fixture(scope="module")
def left_alone(config_file):
  """The folder of a run that nothing happened to."""
  workdir = config_file.parent / "left_alone"
  runs.finish(runs.start(config_file, workdir))
  assert len(runs.records(workdir)) == STEPS // 3 + 1  # and one at the end of the first stage
  assert runs.saved_steps(workdir) == [10, 20, 25, 30]
  return workdir


def kill_and_resume(config_file, workdir, kills: int, steps: int, draw: random.Random) -> None:
  """Kills the run at random moments of steps and saves, and lets it end."""
  until = f"--config.train.steps={steps}"
  for kill in range(kills):
    process = runs.start(config_file, workdir, until)
    first, last = (1 + kill) * steps // (kills + 3), (2 + kill) * steps // (kills + 3)
    if kill == 0:  # in the second stage, most likely before there is a checkpoint of it
      first = last = STAGES[0].steps
    # Past the lines that are there, so that it is killed at work and not while it starts.
    step = max(draw.randint(first, last), runs.last_line(workdir) + 1)
    runs.wait_until(process, lambda step=step: runs.last_line(workdir) >= step)
    time.sleep(draw.uniform(0, 0.03))
    process.kill()
    said = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, said
  assert "Resuming from" in runs.finish(runs.start(config_file, workdir, until))


def assert_same_bits(workdir, other, steps: int) -> None:
  assert runs.records(workdir) == runs.records(other)
  found, wanted = runs.arrays(workdir, steps), runs.arrays(other, steps)
  assert found.keys() == wanted.keys()
  kinds = {name.split("'")[1] for name in found}
  assert kinds == {"params", "ema", "opt_state", "step", "calibration"}
  different = [name for name in found if not np.array_equal(found[name], wanted[name])]
  assert not different


def check_killed(config_file, left_alone, kills, steps, record_property):
  seed = random.randrange(10 ** 6)
  record_property("seed", seed)
  workdir = config_file.parent / f"killed_{kills}"
  kill_and_resume(config_file, workdir, kills, steps, random.Random(seed))
  assert_same_bits(workdir, left_alone, steps)


def test_two_kills_change_no_bit(config_file, left_alone, record_property):
  check_killed(config_file, left_alone, 2, STEPS, record_property)


@pytest.mark.slow
def test_ten_kills_change_no_bit(config_file, record_property):
  whole = config_file.parent / "whole"
  runs.finish(runs.start(config_file, whole, "--config.train.steps=60"))
  check_killed(config_file, whole, 10, 60, record_property)


def losses(workdir) -> list[float]:
  return [line["loss"] for line in runs.records(workdir)]


def test_other_devices_and_processes_go_on(config_file, left_alone):
  """Two processes of two devices do what one device does; SIGTERM to one stops both; one process
  of two devices goes on."""
  workdir = config_file.parent / "moved"
  split = ["--config.mesh.fsdp=2", "--config.mesh.context=2", "--config.train.checkpoint_every=0",
           "--config.train.log_every=1"]
  pair = runs.start_all(config_file, workdir, *split, processes=2, devices=2)
  runs.wait_until(pair[0], lambda: runs.last_line(workdir) >= 6)
  pair[1].send_signal(signal.SIGTERM)
  said = runs.finish(*pair, code=75)
  assert said.count("the same command goes on") == 2
  stopped, = runs.saved_steps(workdir)
  assert 6 <= stopped < 2 * KEPT, "stopped too late to show anything"
  steps = (stopped // KEPT + 1) * KEPT
  said = runs.finish(runs.start(config_file, workdir, "--config.mesh.tensor=2", split[-1],
                                f"--config.train.steps={steps}", devices=2))
  assert f"checkpoints/{stopped}" in said
  last = 0
  for line in runs.records(left_alone):
    if line["step"] <= steps:
      mean = np.mean(losses(workdir)[last:line["step"]])  # over the steps of the line
      np.testing.assert_allclose(mean, line["loss"], rtol=1e-5)
    last = line["step"]
  found, wanted = runs.arrays(workdir, steps), runs.arrays(left_alone, steps)
  assert found.keys() == wanted.keys()
  for name in found:
    if "params" in name or "ema" in name:
      np.testing.assert_allclose(found[name], wanted[name], err_msg=name, rtol=0,
                                 atol=1e-5 * np.abs(wanted[name]).max())
