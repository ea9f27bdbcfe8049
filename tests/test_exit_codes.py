"""What command lines end with, and that what they are told arrives; nothing is computed."""

import dataclasses
import json
import os
import pathlib
import types
import warnings

from absl import logging
import jax
import numpy as np
import pytest

from emv3_jax.commands import sample as run_sample
from emv3_jax.commands import train as run_train
from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.jobs import sampler
from emv3_jax.runtime import command_line
from emv3_jax.sampling.clip import Clip
from emv3_jax.training import loop
from emv3_jax.training.monitor.divergence import Diverged

ROOT = pathlib.Path(__file__).parents[1]
SAMPLE = [f"--config={ROOT}/configs/tiny.py", "--config.program_cache=", "--checkpoint=untrained"]
TRAIN = [f"--config={ROOT}/configs/train_tiny.py", "--config.program_cache=", "--config.mesh.data=8"]


def _raise(error):
  raise error


@pytest.mark.parametrize("main, code, said", [
    (lambda arguments: 0, 0, ""), (lambda arguments: 3, 3, ""),
    (lambda arguments: _raise(InputError("no such file")), 2, "no such file\n"),
    (lambda arguments: _raise(InputError("\n".join("abcde"))), 2, "a b c d e\n"),
    (lambda arguments: _raise(KeyboardInterrupt), 75, "Stopped by Ctrl-C; the same command goes on.\n"),
    (lambda arguments: _raise(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 5 bytes")), 1,
     "memory is not enough"),
], ids=["done", "own code", "wrong input", "long input", "interrupt", "memory"])
def test_codes_of_what_goes_wrong(main, code, said, capsys, monkeypatch):
  monkeypatch.setattr(command_line.signal, "signal", lambda *_: None)  # of the tests' process
  with pytest.raises(SystemExit) as ended:
    command_line.run(main)
  assert ended.value.code == code and said in capsys.readouterr().err
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    command_line.run(lambda arguments: _raise(jax.errors.JaxRuntimeError("INTERNAL: a fault")))


@pytest.mark.parametrize("quoted, lines", [("x" * 9000, 2), ("a\nb\nc\nd\ne", 1), ("a\u2028" * 9000, 1)])
def test_what_is_quoted_does_not_bury_a_message(quoted, lines):
  told = command_line.legible(f"Config {quoted} is no file.\nName a file.").splitlines()
  assert len(told) == lines and max(map(len, told)) < 1100
  assert told[0].startswith("Config ") and told[-1].endswith("Name a file.")
  assert command_line.legible("One.\nTwo.") == "One.\nTwo."


def test_warnings_of_libraries_are_a_line(monkeypatch, caplog):
  monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
  command_line.log_warnings()
  warnings.warn("Corrupt EXIF data.  Expecting to read\n12 bytes.", stacklevel=1)
  assert caplog.messages == ["Corrupt EXIF data. Expecting to read 12 bytes."]


def test_an_override_may_be_two_arguments():
  parser = command_line.Parser()
  parser.add_argument("--out")
  flags, overrides = parser.parse(["--config.a.b", "3", "--out", "x", "--config.c=4"])
  assert overrides == ["a.b=3", "c=4"] and flags.out == "x"


def test_flags_are_not_shortened():
  with pytest.raises(InputError, match="--promp=x; did you mean '--prompt'"):
    run_sample.make_parser().parse([*SAMPLE, "--promp=x"])


def test_the_platform_of_the_environment_stays(monkeypatch):
  seen = []
  monkeypatch.setattr(jax.config, "update", lambda *values: seen.append(values))
  monkeypatch.setattr(pathlib.Path, "glob", lambda path, pattern: [])
  monkeypatch.setenv("JAX_PLATFORMS", "tpu")
  command_line.stay_on_cpu_without_accelerator()
  assert not seen
  monkeypatch.delenv("JAX_PLATFORMS")
  command_line.stay_on_cpu_without_accelerator()
  assert seen == [("jax_platforms", "cpu")]


@pytest.fixture
def sampled(monkeypatch):
  """Sampling is stood in for; gives the requests. A request for `broken.wav` fails."""
  requests = []

  def sample(model, request, progress=None):
    requests.append(request)
    if os.fspath(request.audio).endswith("broken.wav"):
      raise InputError("Audio broken.wav is cut short.")
    settings = {"enlarge": model.config.sampling.enlarge}
    return Clip(frames=np.zeros((5, 32, 48, 3), np.uint8), fps=25,
                sound=(np.zeros((3200, 1), np.float32), 16000),
                latents=np.ones((2, 4, 6, 16), np.float32),
                report={"seed": 1, "seconds": {}, "config": {"name": "tiny", "sampling": settings},
                        "fingerprint": request.prompt, "request": {"audio": request.audio}})

  for module in (run_sample, sampler):
    monkeypatch.setattr(module, "stream", sample)
  monkeypatch.setattr(sampler, "fingerprint", lambda model, request: request.prompt)
  return requests


def _manifest(folder, *lines: dict) -> list[str]:
  for name in ("p.png", "good.wav", "broken.wav"):
    (folder / name).touch()
  (folder / "jobs.jsonl").write_text("\n".join(json.dumps({"image": "p.png", **line}) for line in lines))
  return [*SAMPLE, f"--manifest={folder}/jobs.jsonl", f"--out={folder}/out"]


def test_a_manifest_ends_with_1_where_a_job_failed(sampled, tmp_path):
  good, bad = ({"name": name, "audio": f"{name}.wav"} for name in ("good", "broken"))
  command = _manifest(tmp_path, good, bad)
  assert run_sample.main(command) == 1
  assert run_sample.main(command) == 1, "again: one is done, one fails as before"
  assert [pathlib.Path(request.audio).stem for request in sampled] == ["good", "broken", "broken"]
  assert run_sample.main(_manifest(tmp_path, good, {**good, "name": "other", "seed": "x"})) == 1
  assert run_sample.main(_manifest(tmp_path, good)) == 0


def test_faults_are_told_before_a_network_is_loaded(sampled, tmp_path, monkeypatch, capsys):
  good = {"name": "good", "audio": "good.wav"}
  command = _manifest(tmp_path, good, {**good, "name": "a", "audio": "absent.wav"}, {**good, "name": "b/c"})
  seen, load = [], run_sample.load
  monkeypatch.setattr(logging, "error", lambda text, *values: seen.append(text % values))
  monkeypatch.setattr(run_sample, "load", lambda *a, **b: seen.append("load") or load(*a, **b))
  with pytest.raises(InputError, match="2 of 3 lines .* cannot be made, the first is line 2"):
    run_sample.main([*command, "--strict"])
  told = [f"Line 2 (a) cannot be made: Audio {tmp_path}/absent.wav: no such file.",
          "Line 3 (0003) cannot be made: name 'b/c' is not a plain file name; use letters, digits and . _ -"]
  assert seen == ["load", *told] and not sampled
  del seen[:]
  assert run_sample.main(command) == 1 and seen[:3] == ["load", *told] and len(sampled) == 1
  assert run_sample.main([*_manifest(tmp_path, good), "--strict"]) == 0


def test_the_report_does_not_replace_the_manifest(sampled, tmp_path):
  command = _manifest(tmp_path, {"name": "good", "audio": "broken.wav"})
  (tmp_path / "jobs.jsonl").rename(tmp_path / "report.jsonl")
  with pytest.raises(InputError, match="is where the report of the run is written"):
    run_sample.main([*command[:-2], f"--manifest={tmp_path}/report.jsonl", f"--out={tmp_path}"])


def test_one_clip_is_written_as_asked_for(sampled, tmp_path):
  command = [*SAMPLE, "--audio=a.wav", f"--out={tmp_path}/clip.mp4"]
  assert run_sample.main([*command, "--config.sampling.enlarge=2", "--save_latents"]) == 0
  assert video_files.read_video(tmp_path / "clip.mp4").frames.shape == (5, 64, 96, 3)
  np.testing.assert_array_equal(np.load(tmp_path / "clip.latents.npy"), np.ones((2, 4, 6, 16)))
  (tmp_path / "clip.latents.npy").unlink()
  assert run_sample.main([*command, "--config.sampling.enlarge=1"]) == 0
  assert video_files.read_video(tmp_path / "clip.mp4").frames.shape == (5, 32, 48, 3)
  assert not (tmp_path / "clip.latents.npy").exists()
  with pytest.raises(InputError, match="cut short"):
    run_sample.main([*SAMPLE, "--audio=broken.wav", f"--out={tmp_path}/clip.mp4"])


def test_a_stream_grows_under_another_name(sampled, tmp_path, monkeypatch):
  grown, grow_video = [], video_files.grow_video
  monkeypatch.setattr(video_files, "grow_video", lambda *args, **options: grown.append(args[1]) or grow_video(*args, **options))
  command = [*SAMPLE, "--audio=a.wav", f"--out={tmp_path}/clip.mp4"]
  assert run_sample.main(command) == 0 and not grown
  assert run_sample.main([*command, "--stream"]) == 0 and grown == [tmp_path / "clip.partial.mp4"]
  assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "clip.json"}
  with pytest.raises(InputError, match="--stream does not go with --manifest"):
    run_sample.main([*_manifest(tmp_path, {"audio": "good.wav"}), "--stream"])


def test_no_name_of_a_source_is_written_over(sampled, tmp_path):
  source, folder = tmp_path / "v.mp4", tmp_path / "sub"
  source.write_bytes(b"source")
  folder.mkdir()
  (tmp_path / "link.mp4").symlink_to("v.mp4")
  (tmp_path / "hard.mp4").hardlink_to(source)
  for name in (source, tmp_path / "link.mp4", tmp_path / "hard.mp4", folder / "../v.mp4"):
    with pytest.raises(InputError, match=r"mp4 is the input .*v.mp4; choose another name"):
      run_sample.main([*SAMPLE, "--audio=a.wav", "--task=lipsync", f"--video={source}", f"--out={name}"])
  assert source.read_bytes() == b"source" and not sampled


@pytest.mark.parametrize("out", ["take-10:30.mp4", "http:x.mp4", "caf\udce9.mp4", "100%d.mp4", "-.mp4"])
def test_names_of_clips_mean_nothing(sampled, tmp_path, monkeypatch, out):
  """Of the clip and of its sound, whose name is in the report."""
  monkeypatch.chdir(tmp_path)
  assert run_sample.main([*SAMPLE, f"--audio={out[:-4]}.wav", f"--out={out}"]) == 0
  assert video_files.read_video(out).frames.shape == (5, 32, 48, 3)
  assert json.loads(pathlib.Path(f"{out[:-4]}.json").read_text())["request"]["audio"].endswith(".wav")


def test_flags_reach_the_request(sampled, tmp_path, monkeypatch):
  loaded = []

  def load(checkpoint, config, overridden):
    loaded.append((checkpoint, overridden))
    return types.SimpleNamespace(config=config)

  monkeypatch.setattr(run_sample, "load", load)
  given = {"audio": "a.wav", "image": "p.png", "prompt": "a puppet", "negative_prompt": "bad",
           "task": "flf2v", "last_image": "l.png", "video": "v.mp4", "face_box": "1,2,3,4",
           "seed": 7, "seconds": 0.5}
  flags = [f"--{name}={value}" for name, value in given.items()]
  command = [*SAMPLE[:2], "--checkpoint=models/mine", f"--out={tmp_path}/clip.mp4",
             "--config.sampling.enlarge=1"]
  assert run_sample.main([*command, *flags, "--no_paste"]) == 0
  assert run_sample.main([*command, "--audio=a.wav"]) == 0
  full, plain = map(dataclasses.asdict, sampled)
  assert full == {**given, "paste": False, "prompts": (), "negative_prompts": ()}
  assert plain["paste"] is plain["seed"] is plain["negative_prompt"] is None
  assert loaded == [("models/mine", {"program_cache", "sampling.enlarge"})] * 2


def test_weights_are_verified_on_request(sampled, tmp_path, monkeypatch):
  monkeypatch.setattr(sampler, "verify_weights", lambda model: _raise(InputError("other weights")))
  command = [*SAMPLE, "--audio=a.wav", f"--out={tmp_path}/clip.mp4"]
  assert run_sample.main(command) == 0
  with pytest.raises(InputError, match="other weights"):
    run_sample.main([*command, "--verify"])


def test_divergence_ends_with_1(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(loop, "train", lambda *_, **__: _raise(Diverged("Stopped: in step 3")))
  assert run_train.main([*TRAIN, f"--workdir={tmp_path}"]) == 1
  assert capsys.readouterr().err.endswith("Stopped: in step 3\n")


@pytest.mark.parametrize("stopped, code", [(False, 0), (True, 75)])
def test_a_run_that_was_stopped_ends_with_75(stopped, code, monkeypatch, tmp_path):
  monkeypatch.setattr(loop, "train", lambda *_, **__: loop.Outcome(3, stopped))
  assert run_train.main([*TRAIN, f"--workdir={tmp_path}"]) == code


def test_steps_to_profile():
  assert run_train.profile_steps("10:13") == (10, 13)
  for text in ("10:10", "13:10", "a:b", "5"):
    with pytest.raises(InputError, match="no range of steps"):
      run_train.profile_steps(text)
