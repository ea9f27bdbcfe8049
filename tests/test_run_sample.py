"""The command line: exit codes and messages of wrong input."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import pytest

from emv3_jax.commands import sample as run_sample
from emv3_jax.errors import InputError
from emv3_jax.runtime import command_line

ROOT = pathlib.Path(__file__).parents[1]
NO_CACHE = "--config.program_cache="
CONFIG = f"--config={ROOT}/configs/tiny.py"
TINY = ROOT / "emv3_jax/assets/tiny"


def test_wrong_input_ends_with_code_2_and_one_line(tmp_path):
  finished = subprocess.run(
      [sys.executable, ROOT / "run_sample.py", CONFIG, NO_CACHE, "--checkpoint=untrained", "--audio=absent.wav",
       "--image=absent.png", f"--out={tmp_path}/clip.mp4"], capture_output=True, text=True, cwd=tmp_path, timeout=300)
  assert finished.returncode == 2
  assert "Traceback" not in finished.stderr
  assert "weights of tiny are untrained" in finished.stderr
  assert finished.stderr.strip().splitlines()[-1] == "Audio absent.wav: no such file."
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_second_start_on_a_mesh_compiles_and_traces_nothing(tmp_path):
  """Eight devices; and the seconds of both by kind add up."""
  flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
  small = ["--checkpoint=untrained", "--config.sampling.steps=1", "--config.sampling.height=32", "--config.sampling.width=32",
           "--config.model.vae.base_dim=4", "--config.mesh.data=4", "--config.mesh.tensor=2"]

  def start(seed):
    finished = subprocess.run(
        [sys.executable, ROOT / "run_sample.py", CONFIG, f"--config.program_cache={tmp_path}/cache",
         f"--image={TINY}/portrait.png", f"--audio={TINY}/speech.wav", "--face_box=none", *small,
         "--seconds=0.2", f"--seed={seed}", "--json", f"--out={tmp_path}/{seed}.mp4"],
        env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    assert "Seconds since the start: import " in finished.stderr
    found = json.loads(finished.stdout)
    total = found["seconds"].pop("total")
    assert sum(found["seconds"].values()) == pytest.approx(total, abs=0.1)
    assert found["seconds"]["import"] > 0.2 and found["frames"] == 5
    written = json.loads((tmp_path / f"{seed}.json").read_text())["start_up"]
    assert written["programs"] == found["programs"]
    return found["programs"], found["seconds"]

  first, slow = start(1)
  second, fast = start(2)
  assert first["compiled"] >= 7 and first["from_cache"] == 0
  assert second == {"compiled": 0, "from_cache": first["compiled"]}
  assert fast["compile"] < 0.2 * slow["compile"] and 0 < fast["load"]
  assert fast["trace"] == 0 < slow["trace"]


def test_out_of_memory_says_what_takes_less(capsys):
  def main(_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.\nmore")
  with pytest.raises(SystemExit) as ended:
    command_line.run(main)
  said = capsys.readouterr().err
  assert ended.value.code == 1 and "allocating 5 bytes" in said and "branches=in_turn" in said


def test_a_platform_that_is_not_there(tmp_path):
  finished = subprocess.run(
      [sys.executable, ROOT / "run_sample.py", CONFIG, NO_CACHE, "--audio=a.wav",
       f"--out={tmp_path}/clip.mp4"], env={**os.environ, "JAX_PLATFORMS": "cuda"},
      capture_output=True, text=True, timeout=300)
  assert finished.returncode == 2 and "Traceback" not in finished.stderr
  assert "no device of JAX_PLATFORMS=cuda" in finished.stderr


@pytest.mark.parametrize("arguments, said", [
    (["--audio=a.wav"], "--config"),
    ([CONFIG, "--audio=a.wav"], "--out is missing"),
    ([CONFIG, "--out=x.mp4"], "--audio is missing"),
    ([CONFIG, "--out=x.avi", "--audio=a.wav"], "does not end in .mp4"),
    ([CONFIG, "--audoi=a.wav"], "did you mean '--audio'"),
    ([CONFIG, "--config.sampling.step=3"], "did you mean 'steps'"),
    ([CONFIG, "--config.sampling.steps=0", "--out=x.mp4", "--audio=a.wav"], "from 1 to 1000"),
    ([CONFIG, "--config.sampling.height=100", "--config.sampling.width=64"], "multiple of 16"),
    ([CONFIG, "--config.sampling.solver=heun", "--out=x.mp4", "--audio=a.wav"], "Unknown solver"),
    ([CONFIG, "--config.sampling.attention=cudnn", "--out=x.mp4", "--audio=a.wav"],
     "runs on gpu, not on cpu"),
    ([CONFIG, "--seed=x"], "invalid int value"),
    ([CONFIG, "--manifest=m.jsonl", "--out=d", "--audio=a.wav"], "does not go with --manifest"),
    *[([CONFIG, "--manifest=m.jsonl", "--out=d", flag], f"{flag.split('=')[0]} does not go with --manifest")
      for flag in ("--prompt=", "--task=i2v", "--face_box=none", "--seconds=1", "--seed=0", "--no_paste",
                   "--negative_prompt=x")],
    ([CONFIG, "--out=x.mp4", "--audio=a.wav", "--strict"], "--strict goes with --manifest"),
    ([CONFIG, "--manifest=absent.jsonl", "--out=d"], "cannot be read"),
    ([CONFIG, "--manifest=gs://b/jobs.jsonl", "--out=d"], "is an address (gs://)"),
    ([CONFIG, "--manifest=m.jsonl", "--out=s3://b"], "Output folder s3://b is an address"),
    ([CONFIG, "--out=s3://b/x.mp4", "--audio=a.wav"], "Output s3://b/x.mp4 is an address"),
    ([CONFIG, "--out=x.mp4", "--audio=a.wav", "--prompt=caf\udce9"], "--prompt is no UTF-8 text"),
    ([CONFIG, "--checkpoint=absent", "--out=x.mp4", "--audio=a.wav"], "does not exist"),
    ([CONFIG, "--checkpoint=gs://b/m", "--out=x.mp4", "--audio=a.wav"], "Checkpoint gs://b/m is an address"),
    ([CONFIG, "--config.prompt_cache=gs://b/c", "--out=x.mp4"], "Prompt cache gs://b/c is an address"),
    ([CONFIG, "--seed=-1", "--out=x.mp4", "--audio=a.wav"], "seed is -1"),
    ([CONFIG, "--seconds=0", "--out=x.mp4", "--audio=a.wav"], "not a length of time"),
    ([CONFIG, "--out=x.mp4", "--audio=a.wav", "--config.mesh.data=3"],
     "takes 3 devices, there are 8"),
    ([CONFIG, "--out=x.mp4", "--audio=a.wav", "--config.mesh.tensor=8"],
     "6 heads do not divide over tensor 8"),
    ([CONFIG, "--out=x.mp4", "--audio=a.wav", "--config.mesh.data=0"], "mesh.data is 0"),
    ([CONFIG, "--out=x.mp4", "--audio=a.wav", "--config.mesh.date=8"], "did you mean 'data'"),
    ([CONFIG, "--mesh=context=2,tensor=4"], "--config.mesh.context=2 --config.mesh.tensor=4"),
    ([CONFIG, "--out=/dev/null/x/clip.mp4", "--audio=a.wav"], "cannot be created"),
])
def test_wrong_arguments(arguments, said, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError) as caught:
    run_sample.main([*arguments, NO_CACHE])
  assert said in str(caught.value)


def test_a_source_is_not_written_over(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(run_sample, "load", lambda *_, **__: pytest.fail("a network was loaded"))
  source = tmp_path / "v.mp4"
  source.write_bytes(b"source")
  (tmp_path / "sub").mkdir()
  (tmp_path / "link.mp4").symlink_to(source)
  (tmp_path / "hard.mp4").hardlink_to(source)
  for out in ("v.mp4", "sub/../v.mp4", "link.mp4", "hard.mp4"):
    with pytest.raises(InputError, match=f"Output {out} is the input {source}; choose another name"):
      run_sample.main([CONFIG, NO_CACHE, "--audio=a.wav", "--task=lipsync", f"--video={source}", f"--out={out}"])
  assert source.read_bytes() == b"source"


def test_verify_refuses_weights_that_are_not_those_of_the_folder(tmp_path):
  shutil.copytree(TINY / "model", tmp_path / "model")
  card = tmp_path / "model/model.json"
  card.write_text(re.sub(r'"digest": "......', '"digest": "000000', card.read_text(), count=1))
  arguments = [CONFIG, NO_CACHE, f"--checkpoint={tmp_path}/model", "--verify"]
  (tmp_path / "jobs.jsonl").write_text('{"audio": "absent.wav"}')
  for job in (["--audio=absent.wav", f"--out={tmp_path}/clip.mp4"],
              [f"--manifest={tmp_path}/jobs.jsonl", f"--out={tmp_path}/clips"]):
    with pytest.raises(InputError, match="audio_encoder: the weights are not those"):
      run_sample.main([*arguments, *job])


def test_print_config(capsys):
  assert run_sample.main([CONFIG, "--config.sampling.steps=3", "--print_config"]) == 0
  assert '"steps": 3' in capsys.readouterr().out
