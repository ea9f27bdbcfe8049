"""The commands of docs/stages.md for a stage against one issue: what the run itself tells, and they work."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import pytest

from configs import tiny, train_cycle_tiny
from emv3_jax.data.pipeline import Dataset
from emv3_jax.io.checkpoints import read_model_card
from emv3_jax.puppets.world.mp4 import write_mp4s
from emv3_jax.runtime.config import build
from emv3_jax.training.input.sources import Sources
from emv3_jax.training.run.dataset_commands import commands_for
from emv3_jax.training.settings import Config
from tests.training import runs

ROOT = pathlib.Path(__file__).parents[2]
ASSETS = tiny.ASSETS
SMALL = dict(dim=48, ffn_dim=64, num_heads=4, num_layers=2, freq_dim=16)


def commands() -> list[list[str]]:
  """Those of the docs, in order."""
  text = (ROOT / "docs/stages.md").read_text().partition("## A stage against one issue")[2]
  block = text.split("```")[1]
  return [shlex.split(line) for line in block.strip().splitlines()]


def test_the_run_tells_the_commands_of_the_docs():
  train, *made, again = commands()
  config = build(Config, train_cycle_tiny.get_config())
  needs = [need for index in range(3) for need in Sources(config).required(index) if need.negative]
  told = commands_for(needs[0], config, pathlib.Path("runs/cycle"), train)
  assert [shlex.split(line) for line in told.splitlines()[1:]] == [*made, again]
  assert train == again


_CONFIGS = {
    "train_cycle_tiny": """
from configs import train_cycle_tiny
def get_config():
  config = train_cycle_tiny.get_config()
  config.components, config.checkpoint = config.checkpoint, "untrained"
  config.model.transformer.update(SMALL)
  for stage, steps in zip(config.stages, (3, 2, 2)):
    stage.update(steps=steps, warmup=0)
  config.train.update(batch=2, log_every=1)
  config.sampling.steps = 2
  return config
""", "tiny": """
from configs import tiny
def get_config():
  config = tiny.get_config()
  config.model.transformer.update(SMALL)
  return config
""", "prepare_tiny": """
from configs import prepare_tiny
def get_config():
  return prepare_tiny.get_config()
"""}


@pytest.mark.slow
def test_the_cycle_word_for_word(tmp_path):
  """On puppets, with a small transformer and few steps: the commands as they stand, in turn."""
  (tmp_path / "configs").mkdir()
  for name, text in _CONFIGS.items():
    (tmp_path / f"configs/{name}.py").write_text(f"SMALL = {SMALL!r}\n{text}")
  for script in ("run_train.py", "run_sample.py"):
    (tmp_path / script).symlink_to(ROOT / script)
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
                 "XLA_FLAGS": runs.QUICK_FLAGS}

  def run(command, code=0):
    done = subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert done.returncode == code, done.stdout
    return done.stdout

  write_mp4s(tmp_path / "data/puppets_train", 0, 4, "crowd", 17)
  train, export, sample, prepare, again = commands()
  run([*prepare[:4], f"--checkpoint={ASSETS / 'model'}", "--manifest=data/puppets_train/clips.jsonl",
       "--out=data/puppets_train_records"])
  said = run(train, 75)
  assert "stages.1 ('drift') takes its negatives from data/negatives_drift" in said
  assert f"--export={export[-1].partition('=')[2]}" in said
  run(export)

  stage = tmp_path / "runs/cycle/stage_1"
  names = ["first", "second"]
  job = {"audio": str(ASSETS / "speech.wav"), "image": str(ASSETS / "portrait.png"), "seconds": 0.68,
         "face_box": (ASSETS / "face_box.txt").read_text().strip(), "prompt": "a puppet"}
  clip = lambda name: {"id": name, "video": f"clips/{name}.mp4", "report": f"clips/{name}.json"}
  write = lambda path, lines: path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  write(stage / "jobs.jsonl", [{**job, "name": name, "seed": seed} for seed, name in enumerate(names)])
  run(sample)
  write(stage / "clips.jsonl", map(clip, names))
  run(prepare)
  negatives = Dataset(tmp_path / "data/negatives_drift")
  assert negatives.index.made_by == read_model_card(stage / "model").components["transformer"].digest
  latents = np.load(stage / "clips/first.latents.npy")
  assert {record.task for record in map(negatives.__getitem__, range(2))} == {"i2v"}
  assert np.abs(negatives[0].latents - latents.reshape(negatives[0].latents.shape)).max() < 1e-2

  said = run(again)
  assert "Resuming from runs/cycle/checkpoints/3" in said and "other weights" not in said
  lines = list(map(json.loads, (tmp_path / "runs/cycle/metrics.jsonl").read_text().splitlines()))
  assert [line["kind"] for line in lines] == ["sft"] * 3 + ["ndpo"] * 2 + ["sft"] * 2
  shares = {line["step"]: line["ema_share"] for line in lines if "ema_share" in line}
  assert shares.keys() == {3, 5, 7} and min(shares[5], shares[7]) >= 0.9
  assert (tmp_path / "runs/cycle/model/model.json").exists()
