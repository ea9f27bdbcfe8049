"""Utilisation counts the work of every kind of step on devices whose peak is known."""

import dataclasses

import jax
import pytest

from emv3_jax.plan import programs, training_programs, utilisation
from emv3_jax.sharding import MeshConfig, make_mesh
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.monitor.throughput import Throughput
from emv3_jax.training.settings import NDPOConfig, ScheduleConfig
from tests.training import tiny

CONFIG = tiny.config_of(Stage("sft", 2), Stage("cycle", 10, kind="ndpo", every=2, negatives="n"))
SHAPE = (4, 2, 8, 8, 16)


def test_known_devices():
  assert utilisation.chip_of("TPU v5 lite").peak_flops == 197e12
  assert utilisation.chip_of("NVIDIA H100 80GB HBM3").peak_flops == 989e12
  assert utilisation.chip_of("NVIDIA H100 PCIe") is None  # no plans for it
  assert utilisation.peak_flops("NVIDIA H100 PCIe") == 756e12


def test_step_flops_by_kind():
  sft, ndpo, dpo = (utilisation.step_flops(CONFIG, kind, SHAPE) for kind in ("sft", "ndpo", "dpo"))
  assert sft % 3 == 0 and ndpo == sft // 3 * 4 and dpo == sft // 3 * 8
  absolute = dataclasses.replace(CONFIG, ndpo=NDPOConfig(reading="absolute", sft_weight=0.5))
  assert utilisation.step_flops(absolute, "ndpo", SHAPE) == 2 * sft
  kernels = 2 * 4 * 2 * 16 * 48 * 64 * 2 * 2  # of the feed-forward layers, forward
  assert sft > 3 * kernels


def test_a_config_with_a_schedule_is_planned():
  """Its stages come from the schedule; forward and backward, nothing recomputed."""
  config = dataclasses.replace(CONFIG, stages=(), schedule=ScheduleConfig(preset="paper", steps=9),
                               train=dataclasses.replace(CONFIG.train, batch=SHAPE[0]))
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  program = training_programs.train_step(
      config, programs.Window(5, 64, 64), programs.Deployment("cpu", mesh, MeshConfig()))
  assert program.flops == utilisation.step_flops(config, "sft", SHAPE) and program.padding == 1


def test_speed_reports_utilisation(monkeypatch):
  clock = iter([-1.0, 0.0, 2.0, 4.0])
  monkeypatch.setattr("time.perf_counter", lambda: next(clock))
  throughput = utilisation.throughput_of(CONFIG, "TPU v5 lite", 4)
  for step in (0, 1):  # start the clock: nothing is told of them
    throughput.count(step, SHAPE, stalled=0.5 * step)
    assert throughput.read() == {}
  for step in (2, 3):  # 2 is sft, 3 ndpo
    throughput.count(step, SHAPE, stalled=0.5 * step)
  told = throughput.read()
  assert throughput.read() == {}
  work = sum(utilisation.step_flops(CONFIG, kind, SHAPE) for kind in ("sft", "ndpo"))
  assert told["mfu"] == told["hfu"] == pytest.approx(work / 4 / (4 * 197e12))
  assert told["seconds_per_step"] == 2 and told["clips_per_second"] == 2
  assert told["tokens_per_second"] == 2 * 2 * 16 and told["input_stall_share"] == 0.25


def test_unknown_device_has_none():
  throughput = utilisation.throughput_of(CONFIG, "cpu", 1)
  for step in range(4):
    throughput.count(step, SHAPE, stalled=0.0)
  told = throughput.read()
  assert "seconds_per_step" in told and not {"mfu", "hfu"} & told.keys()


@pytest.mark.parametrize("remat, kept", [("none", 1), ("full", 0), ("attention", 2 * 4 * 4 * 32 * 32 * 48)])
def test_what_is_recomputed_counts_as_work_of_the_hardware(remat, kept):
  """Nothing, whole forward passes, or all but the two products of attention; of what is learnt only."""
  config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, remat=remat))
  dpo = utilisation.step_flops(config, "dpo", SHAPE)
  forward = dpo // 8
  kept = forward if kept == 1 else kept
  assert utilisation.executed_flops(config, "dpo", SHAPE) == dpo + 2 * (forward - kept)


def test_figures_of_the_hardware_are_left_out_where_they_are_not_known():
  config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, remat="dots_saveable"))
  assert utilisation.executed_flops(config, "sft", SHAPE) is None
  throughput = Throughput(lambda step, shape: (2, None if step == 3 else 4), peak=1.0, lead=0)
  for steps, found in (((1, 2), {"mfu", "hfu"}), ((2, 3, 2), {"mfu"}), ((4,), {"mfu", "hfu"})):
    for step in steps:
      throughput.count(step, SHAPE, stalled=0.0)
    told = throughput.read()
    assert {"mfu", "hfu"} & told.keys() == found
    assert told.get("hfu", 2 * told["mfu"]) == pytest.approx(2 * told["mfu"])


def test_waiting_is_counted_for_later_batches_too():
  """Those of a stage whose dataset came late count their waiting from zero."""
  throughput = Throughput(lead=0)
  for stalled in (30.0, 40.0):
    throughput.count(0, SHAPE, stalled)
  throughput.read()
  for stalled in (0.0, 0.0):
    throughput.count(0, SHAPE, stalled)
  assert throughput.read()["input_stall_share"] == 0
