"""The recipe of the small default: a shell script whose commands have to fit the configs that they name."""

import os
import pathlib
import subprocess

from configs import train_tiny, train_tiny_long

RECIPE = pathlib.Path(__file__).parents[2] / "scripts/train_default.sh"


def test_the_recipe_makes_what_its_configs_read(tmp_path):
  """Run with `echo` in place of Python, it prints its commands."""
  done = subprocess.run(["sh", str(RECIPE)], cwd=tmp_path, env=os.environ | {"PYTHON": "echo", "PARTS_FROM": ""},
                        capture_output=True, text=True, check=False)
  assert (done.returncode, done.stderr) == (0, "")
  lines = done.stdout.splitlines()
  at = lambda *words: next(i for i, line in enumerate(lines) if all(word in line.split() for word in words))
  first, long = train_tiny.get_config(), train_tiny_long.get_config()
  runs = {"runs/tiny": ("configs/train_tiny.py", first), "runs/tiny_long": ("configs/train_tiny_long.py", long)}
  for workdir, (name, config) in runs.items():
    run = at("run_train.py", f"--config={name}", f"--workdir={workdir}")
    for records in (config.data, config.preview.held_out):
      made = at(f"--out={records}", "--checkpoint=runs/tiny_parts/model")
      source = lines[made].partition("--manifest=")[2].split()[0].removesuffix("/clips.jsonl")
      assert at("emv3_jax.puppets", f"--out={source}", "--frames=65") < made < run
      assert ("--config.prepare.frames=65" in lines[made]) == (config is long)
  assert long.checkpoint == "runs/tiny/model" and first.components == "runs/tiny_parts/model"
  assert at("--stage=default", "--run=runs/tiny_long") > at("--workdir=runs/tiny_long")
