"""Real compilers, no hardware: memory, communication and warnings of the full-size programs."""

import dataclasses
import itertools
import json

import pytest

from configs import echomimic_v3_preview, tiny, train_sft_480p
from emv3_jax.commands import sample as run_sample
from emv3_jax.components.config import PrecisionConfig
from emv3_jax.errors import InputError
from emv3_jax.plan import compile_one, meshes, planner, programs, subjects, targets
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.settings import Config
from emv3_jax.sharding import MeshConfig
from emv3_jax.training import settings as training_settings

FIGURES = ("peak_gib", "seconds_at_peak", "collectives", "compile_seconds", "compiler_gib",
           "warnings")


@pytest.fixture
def recorded(record_property):
  """Keeps the figures of a plan's lines for `--evidence`, and holds compilers to 2 GiB."""
  def record(lines):
    for line in lines:
      label = meshes.label(MeshConfig(**line["mesh"]))
      record_property(f"{line['program']} on {line['target']}, {label}",
                      {name: line[name] for name in FIGURES})
      assert line["compiler_gib"] <= 2
    return lines

  return record


@pytest.fixture
def plan(recorded, monkeypatch):
  """`planner.plan` where the target's compiler is; each program in a process of its own."""
  monkeypatch.delenv("XLA_FLAGS", raising=False)  # full-size programs as users plan them
  def run(config, name, mesh=(), *names, clip_frames=0):
    target = targets.parse(name)
    try:
      targets.check_extra(target)
    except InputError as error:
      gpu = target.platform == "gpu"
      pytest.skip("no CUDA compiler: run `make plan-gpu`" if gpu else str(error))
    plans = (planner.plan(config, target, mesh, names=[program], clip_frames=clip_frames)
             for program in names or subjects.of(config).programs)
    return recorded(list(itertools.chain(*plans)))

  return run


def preview(**sampling):
  config = config_lib.build(Config, echomimic_v3_preview.get_config())
  return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, **sampling))


def test_a_sampling_step_on_a_slice(plan):
  (line,) = plan(preview(), "v5e:2x2", ["context=4"], "sample_step")
  assert line["fits"] and not line["warnings"]
  assert 1.0 < line["peak_gib"] < 3.4
  assert line["parameters_gib"] < 3.2 / 4 + 0.05  # what is split is split over all chips
  assert line["collectives"]["all-to-all"]["count"] == 4  # q, k, v to heads; the output back


def test_an_h100_gets_cudnns_attention(plan, monkeypatch, tmp_path):
  config = config_lib.build(Config, tiny.get_config())
  sampling = dataclasses.replace(config.sampling, attention="cudnn", max_frames=9, height=64,
                                 width=64)
  monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text")
  (line,) = plan(dataclasses.replace(config, sampling=sampling, precision=PrecisionConfig()),
                 "h100:1x1x1", [], "sample_step")
  assert line["fits"] and not line["warnings"]
  texts = [path.read_text() for path in tmp_path.glob("*after_optimizations.txt")]
  assert any("__cudnn$fmha" in text for text in texts)


def test_a_slice_that_the_compiler_does_not_know_is_an_error(plan):
  with pytest.raises(InputError, match="knows no v5e:3x3, but e.g. v5e:1x1, v5e:2x2, .*divisible"):
    plan(preview(), "v5e:3x3", [], "sample_step")


@pytest.mark.parametrize("message, gib", [
    ("RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: XLA:TPU compile permanent error. Ran out of "
     "memory in memory space hbm. Used 21.95G of 15.75G hbm. Exceeded hbm capacity by 6.20G. "
     "Memory usage report: \n\nTotal hbm usage >= 22.47G:\n    reserved 530.00M", 21.95),
    ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
     "(1.50T) exceeds available HBM (15.75G).", 1536),
    ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.00M of 1.00M hbm.", 0.5),
    ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 1048576K of 1K hbm.", 1),
    ("RESOURCE_EXHAUSTED: Scoped allocation exceeds the limit.", None),
    ("INTERNAL: Used 3.00G of time.", None)], ids=["G", "T", "M", "K", "no size", "no memory"])
def test_what_a_rejected_program_needs_is_read_from_the_message(message, gib):
  assert compile_one.needed_bytes(message) == (gib if gib is None else gib * 2 ** 30)


@pytest.mark.slow
def test_a_program_that_the_compiler_rejects_does_not_fit(recorded, monkeypatch, capsys):
  for name in programs.OF_PICTURES:
    monkeypatch.delitem(programs.PROGRAMS, name)
  code = run_sample.main(["--config=configs/echomimic_v3_preview.py", "--plan=v5e:1x1", "--json",
                          "--config.sampling.max_frames=481"])
  (line,) = recorded([json.loads(capsys.readouterr().out)])
  assert code == 0 and not line["fits"]
  assert line["peak_gib"] > 16 and line["inputs_gib"] == 0  # the compiler's message tells no more
  assert "--config.sampling.branches=in_turn takes" in line["advice"]
  assert "--plan=v5e:2x2 --mesh=context=4,attention=ulysses takes" in line["advice"]


@pytest.mark.slow
@pytest.mark.parametrize("branches, limit", [("batched", 7.6), ("in_turn", 5.5)])
@pytest.mark.parametrize("target", ["v5e:1x1", "h100:1x1x1"])
def test_memory_of_a_sampling_step_on_one_chip(plan, target, branches, limit):
  (line,) = plan(preview(branches=branches), target, [], "sample_step")
  assert line["peak_gib"] <= limit
  assert line["flops"] == pytest.approx(3.0e15, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["vae_decode", "vae_encode"])
@pytest.mark.parametrize("target", ["v5e:1x1", "h100:1x1x1"])
def test_memory_of_the_vae_on_one_chip(plan, target, program):
  (line,) = plan(preview(), target, [], program)
  assert line["peak_gib"] <= 5.0


@pytest.mark.slow
@pytest.mark.parametrize("target", ["v5e:2x4", "v6e:8x8", "h100:1x8x8"])
def test_everything_fits_larger_machines(plan, target):
  lines = plan(preview(), target)
  assert all(line["fits"] and not line["warnings"] for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["v5e:1x1", "v5e:2x4", "h100:1x1x1", "h100:1x1x8"])
def test_a_minute_takes_the_memory_of_one_window(plan, target):
  """60 s of 768x768: the groups of windows, and the decoder of one latent frame at a time."""
  window, = plan(preview(), target, (), "sample_step")
  group, decode, encode = plan(preview(), target, clip_frames=1501)
  assert group["fits"] and abs(group["peak_gib"] / window["peak_gib"] - 1) <= 0.05
  assert max(decode["peak_gib"], encode["peak_gib"]) <= window["peak_gib"]


@pytest.mark.slow
@pytest.mark.parametrize("target, batch, limit", [
    ("v5e:4x4", 4, 4.4), ("v5e:16x16", 64, 2.4), ("h100:1x2x8", 4, 5.2)])
def test_training_steps(plan, target, batch, limit):
  """113 frames of 480x832: float32 parameters, two moments and an average, bfloat16 products."""
  config = config_lib.build(training_settings.Config, train_sft_480p.get_config())
  config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch=batch))
  train, ndpo = plan(config, target)
  assert MeshConfig(**train["mesh"]) == MeshConfig(
      fsdp=targets.parse(target).devices // 4, context=4)
  assert train["peak_gib"] <= limit
  assert ndpo["peak_gib"] <= train["peak_gib"] + 0.4
  # Of q, k, v and the output: forward, again, backward; the reference runs forward once more.
  assert train["collectives"]["all-to-all"]["count"] == 12
  assert ndpo["collectives"]["all-to-all"]["count"] == 16
  assert not train["warnings"] and not ndpo["warnings"]


def test_shares_of_memory_add_up():
  shares = compile_one._shares(8 * 2 ** 30, 3 * 2 ** 30, 5 * 2 ** 30)
  assert shares == {"peak_gib": 8, "parameters_gib": 3, "inputs_gib": 2, "activations_gib": 3}
