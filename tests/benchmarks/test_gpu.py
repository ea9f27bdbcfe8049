"""The parts that are timed on a GPU, at small sizes on the CPU, and the report of them."""

import importlib
import json
import subprocess
import sys
import time
import weakref

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import children, ours, parts, report, sizes, worker
from emv3_jax.errors import InputError
from emv3_jax.plan import utilisation

ABSENT = ("av", "grain", "array_record", "tensorboardX", "librosa", "ml_collections", "pyloudnorm", "cv2")
# One step in place of its two ways.
OURS = [name for name in parts.PARTS if not parts.is_of_torch(name) and name != "sample_step_in_turn"]
MEASURED = {"sample_step": {"median_seconds": 5.0, "share_of_peak": 0.61, "planned_gib": 8.0, "peak_gib": 9.0},
            "torch_sample_step": {"median_seconds": 5.5},
            "torch_sample_step_compiled": {"skipped": "needs diffusers, which is not installed"},
            "vae_decode": {"median_seconds": 4.5, "planned_gib": 4.0, "peak_gib": None}}


def test_all_parts_run_where_packages_for_files_and_media_are_missing():
  """Those of the machines that are lent to measure on have JAX, flax, optax and orbax only."""
  script = f"""
import json, sys
sys.modules.update(dict.fromkeys({ABSENT}))
from benchmarks.gpu import __main__, worker
for part in {OURS}:
  *_, last = worker.results(part, small=True, runs=1, cap=1000)
  print(json.dumps([part, last]))
"""
  done = subprocess.run([sys.executable, "-c", script], cwd=children.ROOT, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stderr[-2000:]
  results = dict(map(json.loads, done.stdout.splitlines()))
  assert list(results) == OURS
  for part in set(OURS) - {"attention"}:
    assert results[part]["median_seconds"] > 0 and results[part]["tflop"] > 0, part
    assert results[part].get("finite", True), part
    assert "planned_gib" in results[part] or part == "head", part
  assert results["train_step"]["tflop"] > results["sample_step"]["tflop"]
  assert results["head"]["shape"] == [1, 5, 32, 32, 3] and len(results["head"]["decode_seconds"]) == 1
  assert results["head"]["tflop"] == pytest.approx(
      5 * results["sample_step"]["tflop"] + results["vae_decode"]["tflop"], rel=1e-3)
  errors = results["attention"]["relative_error"]
  assert list(errors) == ["64x64", "33x17"] and all(0 < error < 0.02 for pair in errors.values() for error in pair)


@pytest.fixture(scope="module")
def theirs():
  pytest.importorskip("torch", reason="PyTorch is in the extra `parity` only")
  pytest.importorskip("diffusers", reason="diffusers is in the extra `parity` only")
  return importlib.import_module("benchmarks.gpu.diffusers_modules")


@pytest.mark.parametrize("part", ["torch_sample_step", "torch_vae_decode", "torch_vae_encode"])
def test_pytorch_parts_run(part, theirs):
  *_, last = worker.results(part, small=True, runs=1, cap=1000)
  assert last["finite"] and last["median_seconds"] > 0 and last["tflop"] > 0
  assert last.get("attention", "native") == "native"  # the others are for GPUs


def test_pytorch_does_the_same_work_at_full_size(theirs):
  full = sizes.FULL
  window, network = full.preview_window, full.preview.model.transformer
  mine = ours.programs.sample_step(full.preview, window, ours._deployment()).flops / 1e12
  # Ours has the audio expert, but projects text and image once a clip.
  assert mine == pytest.approx(theirs.transformer_tflop(network, 3, window), rel=0.01)


def test_a_part_without_its_packages_is_skipped_with_a_line(monkeypatch):
  monkeypatch.setitem(sys.modules, "diffusers", None)
  assert list(worker.results("torch_vae_decode", small=True, runs=1, cap=60)) == [
      {"skipped": "needs diffusers, which is not installed"}]


def test_no_run_begins_near_the_end_of_the_time(monkeypatch):
  seen = []
  ask = lambda module, sizes, keep_on, on: iter([seen.append(keep_on([1.0])) or {}])
  monkeypatch.setitem(parts.PARTS, "attention", parts.Part(1, "", ask))
  for runs, cap in ((2, 1000), (1, 1000), (2, 0)):
    list(worker.results("attention", small=True, runs=runs, cap=cap))
  assert seen == [True, False, False]


def test_a_process_is_ended_with_its_own_after_its_time():
  script = ("import subprocess, sys, time; child = subprocess.Popen(['sleep', '600']); "
            "print('{\"compile_seconds\": 3}', flush=True); print('{\"pid\": %d}' % child.pid, flush=True); "
            "print('{\"cut', flush=True); time.sleep(600)")
  result = children.last_result([sys.executable, "-c", script], 3.0, {})
  assert result["stopped"] == "took more than 3 s"
  gone = lambda: subprocess.run(["ps", "-o", "stat=", "-p", str(result["pid"])], capture_output=True,
                                text=True).stdout.strip() in ("", "Z")
  end = time.monotonic() + 10
  while not gone() and time.monotonic() < end:
    time.sleep(0.05)
  assert gone()


def test_a_failure_keeps_what_was_known_and_the_end_of_its_error():
  script = "import os; print('{\"compile_seconds\": 3}'); os.environ['A_NAME'] == 'b' and 1 / 0"
  result = children.last_result([sys.executable, "-c", script], 60, {"A_NAME": "b"})
  assert result["compile_seconds"] == 3
  assert result["failed"].startswith("exit code 1 | ") and result["failed"].endswith("ZeroDivisionError: division by zero")


def test_results_are_written_after_each_part_and_kept(monkeypatch, tmp_path, capsys):
  path, written = tmp_path / "gpu.json", []

  def last_result(command, cap, environment):
    request = json.loads(command[-1])
    if request["part"] == "device":
      return {"platform": "gpu", "device": "NVIDIA H200", "jax": "0.11.2"}
    written.append((request["part"], cap, dict(environment), json.loads(path.read_text())["parts"] if path.exists() else {}))
    return {"failed": "exit code 1"} if request["part"] == "vae_decode" else {"median_seconds": 1.0}

  monkeypatch.setattr(children, "last_result", last_result)
  assert command.main(["--parts=attention", f"--json={path}"]) == 0
  assert command.main(["--parts=vae_decode,torch_vae_decode", f"--json={path}", "--seconds=1000"]) == 1
  order, caps, environments, before = zip(*written, strict=True)
  assert order == ("attention", "vae_decode", "torch_vae_decode") and caps == (40, 80, 60)
  assert [list(found) for found in before] == [[], ["attention"], ["attention", "vae_decode"]]
  assert environments[2] == {"JAX_PLATFORMS": "cpu"}  # else JAX would take the GPU's memory
  assert "failed: exit code 1" in capsys.readouterr().out
  monkeypatch.setattr(children, "last_result", lambda *_: {"platform": "gpu", "device": "NVIDIA L40S", "jax": "0.11.2"})
  assert command.main(["--parts=flash_step", f"--json={path}", "--seconds=0"]) == 0
  content = json.loads(path.read_text())
  assert content["device"] == "NVIDIA L40S"
  assert content["parts"] == {"flash_step": {"skipped": "the time of all parts was over"}}


def test_goals_are_reached_missed_or_not_measured():
  lines = "\n".join(report.goals(MEASURED))
  for line in ("sampling step, share of peak: 0.61, reached (at least 0.6)",
               "sampling step, seconds over eager PyTorch's: 0.909, reached (at most 0.95)",
               "sampling step, seconds over compiled PyTorch's: not measured (at most 1.05)",
               "VAE decode, seconds: 4.5, missed (at most 4)",
               "training step, share of peak without recomputation: not measured (at least 0.4)",
               "sample_step, peak memory off the plan: 0.125, missed (at most 0.1)",
               "vae_decode, peak memory off the plan: not measured (at most 0.1)"):
    assert line in lines
  shown = report.table(MEASURED, {name: "content" for name in MEASURED})
  assert "| torch_sample_step_compiled | content; skipped: needs diffusers, which is not installed |" in shown


def test_shares_are_of_the_chips_peak():
  found = ours.measure.figures(2000.0, [9.0, 4.0, 5.0], "NVIDIA H200", 2 ** 33, executed=1.25)
  assert found["median_seconds"] == 5.0 and found["peak_gib"] == 8.0
  assert found["share_of_peak"] == pytest.approx(400 / 989, rel=1e-3)
  assert found["share_with_recomputation"] == pytest.approx(500 / 989, rel=1e-3)
  assert utilisation.peak_flops("NVIDIA L40S") == 362e12 and utilisation.peak_flops("cpu") is None


def test_results_take_the_place_of_donated_arguments_only():
  info = lambda donated: type("Info", (), {"donated": donated})()
  infos = ((info(False), {"x": info(True), "y": info(True)}), {})
  a, x, y = (ours.np.full(size, size) for size in (1, 2, 3))
  (kept, state), _ = ours.taken_back(infos, ((a, {"x": x, "y": y}), {}), ({"x": x + 1, "y": y + 1}, a))
  assert kept is a and state["x"][0] == 3 and state["y"][0] == 4
  with pytest.raises(ValueError, match="not its donated arguments"):
    ours.taken_back(infos, ((a, {"x": x, "y": y}), {}), (a, {"x": x, "y": y}))


@pytest.mark.parametrize("arguments, message", [
    (["--parts=sample"], "Unknown part 'sample'; did you mean 'sample_step'"),
    (["--runs=0"], "--runs=0; at least 1"),
])
def test_mistakes_on_the_command_line(arguments, message):
  with pytest.raises(InputError, match=message):
    command.main(arguments)


def test_a_machine_without_a_gpu_is_told_so(monkeypatch):
  monkeypatch.setattr(children, "last_result", lambda *_: {"platform": "cpu", "device": "cpu"})
  with pytest.raises(InputError, match="JAX finds no GPU.*--small"):
    command.main(["--json=none.json"])


def test_no_result_is_kept_while_the_next_run_goes_on():
  alive = []

  def run():
    alive.append([kept() is not None for kept in results])
    made = ours.np.zeros(3)
    results.append(weakref.ref(made))
    return made

  results = []
  for first, _, kept in ours.measure.runs(run, lambda seconds: len(seconds) < 2):
    assert first > 0 and kept[0].shape == (3,)
  assert [len(found) for found in alive] == [0, 1, 2] and not any(sum(alive, []))
