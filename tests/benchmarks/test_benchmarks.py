"""The method of the comparison and its command line, without PyTorch."""

import json

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import cases, ours, report, turns
from emv3_jax.errors import InputError
from tests.compiler import QUICK_FLAGS

COMPARISON = turns.Comparison(
    "vae_decode", turns.Side("ours", 7.0, cpu=[3.0, 2.0, 9.0], wall=[1.5, 1.0, 4.0]),
    turns.Side("diffusers", None, cpu=[8.0, 4.0, 5.0], wall=[2.0, 3.0, 2.5]))


def test_ratios_are_of_the_smallest_seconds():
  assert COMPARISON.ratio == 0.5
  assert COMPARISON.wall_ratio == 0.5
  assert "| vae_decode | diffusers | 0.50 | 0.50 | 2.00 | 1.00 | 7 | 4.00 | 2.00 |  |" in (
      report.table([COMPARISON]))


def test_evidence_keeps_every_round():
  content = json.loads(json.dumps(report.evidence([COMPARISON], size="full", cores=2)))
  entry = content["vae_decode, full, against diffusers"]
  assert entry["ratio"] == 0.5 and entry["processor"]
  assert entry["ours"] == {"name": "ours", "gflop": 7.0, "cpu": [3.0, 2.0, 9.0],
                           "wall": [1.5, 1.0, 4.0]}


def test_workers_take_turns(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", QUICK_FLAGS)  # without the tests' eight devices
  result = turns.compare("transformer", "small", "ours", "ours", rounds=2, cores=1)
  for side in (result.a, result.b):
    assert len(side.cpu) == len(side.wall) == 2
    assert side.gflop == pytest.approx(ours.gflop(cases.find("transformer", "small")))
    for cpu, wall in zip(side.cpu, side.wall, strict=True):
      assert 0 < cpu <= 1.05 * wall  # one core


def test_audio_expert_can_be_left_out():
  with_audio, without = (ours.gflop(cases.find(name, "full"))
                         for name in ("transformer_audio", "transformer"))
  tokens, dim, layers, keys = 4096, 1536, 2, 16 * 17
  expert = layers * (2 * 2 * keys * dim * dim + 2 * 2 * tokens * 17 * dim) / 1e9
  assert with_audio - without == pytest.approx(expert)


@pytest.mark.parametrize("arguments, message", [
    (["--cases=vae"], "Unknown case 'vae'; known: transformer, transformer_audio, vae_decode"),
    (["--size=huge"], "--size"),
    (["--rounds=0"], "--rounds and --cores are counts from 1"),
    (["--cores=4096"], "--cores=4096: this process may use"),
    (["--case=vae_decode"], "did you mean '--cases'"),
])
def test_mistakes_on_the_command_line(arguments, message):
  with pytest.raises(InputError, match=message):
    benchmarks.main(arguments)
