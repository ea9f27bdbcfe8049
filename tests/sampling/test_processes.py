"""Two processes with four devices each make the clip of one process, and one of them writes it."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from emv3_jax.commands import sample as run_sample
from emv3_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
TINY = ROOT / "emv3_jax/assets/tiny"
SMALL = ["--config=configs/tiny.py", "--checkpoint=untrained", "--config.program_cache=",
         "--config.sampling.steps=1",
         "--config.sampling.height=32", "--config.sampling.width=48", "--config.model.vae.base_dim=4",
         "--save_latents", f"--image={TINY}/portrait.png", "--face_box=none", "--seconds=0.2"]
FLAGS = "--xla_backend_optimization_level=0"


def start(folder, audio, *flags) -> subprocess.Popen:
  return run([*SMALL, f"--audio={audio}", f"--out={folder}/clip.mp4", f"--config.prompt_cache={folder}/prompts"],
             *flags)


def run(command, *flags) -> subprocess.Popen:
  several = {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "JAX_NUM_CPU_DEVICES": "4"}
  return subprocess.Popen(
      [sys.executable, "run_sample.py", *command, *flags], cwd=ROOT, text=True,
      env={**os.environ, "XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu", **(several if flags else {})},
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def start_two(folders, audios) -> list[subprocess.Popen]:
  return [start(*of_one, *flags) for *of_one, flags in zip(folders, audios, flags_of_two(), strict=True)]


def flags_of_two() -> list[list[str]]:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{probe.getsockname()[1]}"
  mesh = ["--config.mesh.fsdp=4", "--config.mesh.context=2", f"--coordinator={address}",
          "--num_processes=2"]
  return [[*mesh, f"--process_id={index}"] for index in range(2)]


def finish(processes) -> list[str]:
  try:
    return [process.communicate(timeout=300)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()


@pytest.mark.slow
def test_two_processes_make_one_clip(tmp_path):
  alone, first, second = folders = [tmp_path / name for name in ("alone", "first", "second")]
  for folder in folders:
    folder.mkdir()
  audio = TINY / "speech.wav"
  one = start(alone, audio)
  said = finish([one])
  assert one.returncode == 0, said
  (alone / "prompts").rename(first / "prompts")  # the other process has to encode the prompts
  two = start_two([first, second], [audio, audio])
  said = finish(two)
  assert [process.returncode for process in two] == [0, 0], "\n".join(said)
  want, got = (np.load(folder / "clip.latents.npy") for folder in (alone, first))
  np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
  assert (first / "clip.mp4").exists()
  assert [path.name for path in second.iterdir()] == ["prompts"]


def test_a_file_that_one_process_lacks_ends_both(tmp_path):
  processes = start_two([tmp_path, tmp_path], [TINY / "speech.wav", "absent.wav"])
  first, second = finish(processes)
  assert [process.returncode for process in processes] == [2, 2]
  assert "Audio absent.wav: no such file." in second
  assert "Another process of the run cannot use its inputs" in first
  assert not list(tmp_path.glob("clip*"))


def test_a_line_that_one_process_cannot_make_ends_both_where_all_are_wanted(tmp_path):
  for folder, audio in (("first", TINY / "speech.wav"), ("second", "absent.wav")):
    (tmp_path / folder).mkdir()
    line = {"audio": str(audio), "image": str(TINY / "portrait.png"), "name": "clip"}
    (tmp_path / folder / "jobs.jsonl").write_text(json.dumps(line))
  processes = [run([*SMALL[:3], f"--manifest={tmp_path}/{folder}/jobs.jsonl", "--strict", f"--out={tmp_path}/out"],
                   *flags) for folder, flags in zip(("first", "second"), flags_of_two(), strict=True)]
  first, second = finish(processes)
  assert [process.returncode for process in processes] == [2, 2]
  assert "1 of 1 lines" in second and "Another process of the run cannot use its inputs" in first
  assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("flags, said", [
    (["--process_id=0"], "go together"),
    (["--distributed", "--num_processes=2"], "finds the other processes by itself")])
def test_flags_that_do_not_go_together(flags, said):
  with pytest.raises(InputError, match=said):
    run_sample.main(["--config=configs/tiny.py", "--out=x.mp4", *flags])
