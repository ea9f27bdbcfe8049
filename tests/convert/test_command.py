"""`python -m convert`: arguments, messages and exit codes."""

import os
import subprocess
import sys

import pytest
from safetensors.numpy import load_file, save_file

from convert.__main__ import main
from tests.convert.test_conversion import official


@pytest.fixture
def file(tmp_path, rng):
  tensors, _ = official("umt5", rng)
  save_file(tensors, tmp_path / "in.safetensors")
  return tmp_path / "in.safetensors"


def test_convert_inspect_and_export(tmp_path, file, capsys):
  assert main([str(file), str(tmp_path / "m"), "--dtype=float32"]) == 0
  assert "text_encoder: 15,000 parameters, float32" in capsys.readouterr().out
  assert main(["--inspect", str(tmp_path / "m")]) == 0
  out = capsys.readouterr().out
  assert "component" in out and "text_encoder" in out and "in.safetensors" in out
  assert main(["--export", str(tmp_path / "m"), str(tmp_path / "out.safetensors"),
               "--component=text_encoder"]) == 0
  assert load_file(tmp_path / "out.safetensors").keys() == load_file(file).keys()


def test_an_export_replaces_files_only_and_only_when_told(tmp_path, file, capsys):
  assert main([str(file), str(tmp_path / "m")]) == 0
  out, device = tmp_path / "out.safetensors", tmp_path / "full.safetensors"
  export = ["--component=text_encoder", "--export", str(tmp_path / "m")]
  out.write_bytes(b"mine")
  device.symlink_to("/dev/full")
  os.mkfifo(tmp_path / "pipe.safetensors")
  capsys.readouterr()
  for name, said in ((out, "is there already; pass --replace"), (device, "is a device"),
                     (tmp_path / "pipe.safetensors", "is a pipe"), (f"{out}/x.safetensors", "does not exist"),
                     (tmp_path / f"{'x' * 240}.safetensors", "bytes too long")):
    assert main([*export, str(name)]) == 2 and said in capsys.readouterr().err
  assert out.read_bytes() == b"mine" and device.is_symlink()
  assert main([*export, str(device), "--replace"]) == 2 and device.is_symlink()
  assert main([*export, str(out), "--replace"]) == 0 and load_file(out).keys() == load_file(file).keys()


def test_inspect_shows_what_conversion_would_refuse(file, rng, capsys):
  tensors, _ = official("umt5", rng)
  tensors["extra"] = tensors.pop("norm.weight")
  save_file(tensors, file)
  assert main(["--inspect", str(file)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split() == ["component", "variant", "names", "tensors", "parameters", "dtype",
                              "unused", "missing", "unexpected", "misshapen", "file"]
  assert lines[1].split() == ["text_encoder", "official", "32", "15,000", "bfloat16", "0", "1", "1",
                              "0", "in.safetensors"]
  assert lines[2:] == ["text_encoder missing: norm.weight [24]",
                       "text_encoder unexpected: extra [24]"]


@pytest.mark.parametrize("arguments, message", [
    (["{file}", "{dest}", "--component=vae"], "holds a text_encoder, wanted was vae"),
    (["{file}", "{dest}", "--component=tokenizer"], "no tokenizer.json"),
    (["{file}", "{dest}", "--config_json=nope"], "neither JSON nor a file"),
    (["{file}", "{dest}", "--config_json={{\"layers\": 3}}"], "no config field layers"),
    (["{file}", "{file}/m"], "could not be written"),
    (["nowhere.safetensors", "{dest}"], "nowhere.safetensors does not exist"),
    (["--inspect", "nowhere"], "nowhere does not exist"),
    (["--export", "{dest}", "{dest}.safetensors"], "does not exist"),
    (["--export", "{dest}", "{dest}.safetensors", "--component=tokenizer"], "cannot be exported"),
    (["--export", "{dest}", "{dest}.bin"], "under another name"),
    (["--export", "{dest}", "gs://bucket/x.safetensors"], "gs://bucket/x.safetensors is an address"),
    (["{file}", "s3://bucket/m"], "s3://bucket/m is an address"),
    (["{file}", "gs://bucket/m", "--replace"], "is an address"),
])
def test_mistakes_end_in_a_message_and_code_2(tmp_path, file, capsys, arguments, message):
  values = {"file": file, "dest": tmp_path / "m"}
  assert main([argument.format(**values) for argument in arguments]) == 2
  captured = capsys.readouterr()
  assert message in captured.err and captured.out == ""
  assert "Traceback" not in captured.err and len(captured.err.splitlines()) <= 2
  assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("arguments", [["a"], ["a", "b", "c"], ["--inspect", "a", "b"],
                                       ["a", "b", "--dtype=int8"], ["a", "b", "--componnt=vae"]])
def test_wrong_usage_is_code_2(arguments, capsys):
  assert main(arguments) == 2
  said = capsys.readouterr().err
  assert "see python -m convert --help" in said and len(said.splitlines()) == 1


def test_the_command_itself_when_the_disk_fills_up(tmp_path, rng):
  """Orbax's threads print tracebacks then; the user sees the message only, and nothing stays."""
  tensors, _ = official("umt5", rng)
  tensors["token_embedding.weight"] = tensors["token_embedding.weight"][:1].repeat(90_000, axis=0)
  save_file(tensors, tmp_path / "in.safetensors")  # 4.3 MB
  command = [sys.executable, "-m", "convert", str(tmp_path / "in.safetensors"),
             str(tmp_path / "m")]
  limited = subprocess.run(["bash", "-c", f"ulimit -f 2000; exec {' '.join(command)}"],
                           capture_output=True, text=True, env=dict(os.environ), check=False)
  assert limited.returncode == 2 and limited.stdout == ""
  assert "Traceback" not in limited.stderr and "ERROR" not in limited.stderr
  assert "text_encoder could not be written (Failed to write" in limited.stderr.splitlines()[-2]
  assert list((tmp_path / "m").iterdir()) == []
