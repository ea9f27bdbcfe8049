"""The command line: exit codes and messages of wrong input."""

import pathlib
import subprocess
import sys

import pytest

from emv3_jax.errors import InputError
import run_sample

ROOT = pathlib.Path(__file__).parents[1]
NO_CACHE = "--config.program_cache="
CONFIG = f"--config={ROOT}/configs/tiny.py"


def test_wrong_input_ends_with_code_2_and_one_line(tmp_path):
  finished = subprocess.run(
      [sys.executable, ROOT / "run_sample.py", CONFIG, NO_CACHE, "--audio=absent.wav", "--image=absent.png",
       f"--out={tmp_path}/clip.mp4"], capture_output=True, text=True, cwd=tmp_path, timeout=300)
  assert finished.returncode == 2
  assert "Traceback" not in finished.stderr
  assert "untrained" in finished.stderr, "the embedded model says that it is untrained"
  assert finished.stderr.strip().splitlines()[-1] == "Audio absent.wav: no such file."
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments, said", [
    (["--audio=a.wav"], "--config"),
    ([CONFIG, "--audio=a.wav"], "--out is missing"),
    ([CONFIG, "--out=x.mp4"], "--audio is missing"),
    ([CONFIG, "--out=x.avi", "--audio=a.wav"], "does not end in .mp4"),
    ([CONFIG, "--audoi=a.wav"], "did you mean '--audio'"),
    ([CONFIG, "--config.sampling.step=3"], "did you mean 'steps'"),
    ([CONFIG, "--config.sampling.steps=0", "--out=x.mp4", "--audio=a.wav"], "at least 1"),
    ([CONFIG, "--config.sampling.height=100", "--config.sampling.width=64"], "multiple of 16"),
    ([CONFIG, "--config.sampling.solver=heun", "--out=x.mp4", "--audio=a.wav"], "Unknown solver"),
    ([CONFIG, "--config.sampling.attention=cudnn", "--out=x.mp4", "--audio=a.wav"],
     "runs on gpu, not on cpu"),
    ([CONFIG, "--seed=x"], "invalid int value"),
    ([CONFIG, "--manifest=m.jsonl", "--out=d", "--audio=a.wav"], "does not go with --manifest"),
    ([CONFIG, "--manifest=absent.jsonl", "--out=d"], "cannot be read"),
    ([CONFIG, "--checkpoint=absent", "--out=x.mp4", "--audio=a.wav"], "does not exist"),
    ([CONFIG, "--out=/dev/null/x/clip.mp4", "--audio=a.wav"], "cannot be made"),
])
def test_wrong_arguments(arguments, said, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError) as caught:
    run_sample.main([*arguments, NO_CACHE])
  assert said in str(caught.value)


def test_print_config(capsys):
  assert run_sample.main([CONFIG, "--config.sampling.steps=3", "--print_config"]) == 0
  assert '"steps": 3' in capsys.readouterr().out
