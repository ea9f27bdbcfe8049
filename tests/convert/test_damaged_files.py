"""Seeded damage to files, names and configs: a message or success, never a traceback."""

import json
import random

import numpy as np
import pytest
from safetensors.numpy import save

from convert.__main__ import main
from tests.convert.test_conversion import official
from tests.fuzz.damage import changed, network_fields, other_header, value


@pytest.fixture(scope="module")
def files():
  """(name of a component, bytes of its file, options that the shapes do not tell)."""
  made = []
  for name in ("umt5", "wav2vec2", "clip", "vae", "preview"):
    tensors, given = official(name, np.random.default_rng(0))
    made.append((name, save(tensors), given))
  return made


def run_without_traceback(arguments, capsys):
  try:
    code = main(arguments)
  except SystemExit as stopped:  # of argparse
    code = stopped.code
  captured = capsys.readouterr()
  assert code in (0, 1, 2) and "Traceback" not in captured.err
  if code == 2:
    assert 0 < len(captured.err.splitlines()) <= 3, captured.err
  return code


@pytest.mark.parametrize("seed", range(24))
def test_damaged_checkpoints_end_in_a_message(tmp_path, files, capsys, seed):
  rng = random.Random(seed)
  _, content, given = rng.choice(files)
  kind = seed % 4
  if kind in (0, 1):
    content = changed(content, rng) if kind == 0 else other_header(content, rng)
  (tmp_path / "model.safetensors").write_bytes(content)
  options = [f"--config_json={json.dumps(given)}"]
  if kind == 2:
    (tmp_path / "config.json").write_text(json.dumps(network_fields(rng)))
  elif kind == 3:
    options = [f"--config_json={json.dumps(network_fields(rng))}"]
  source = str(rng.choice((tmp_path, tmp_path / "model.safetensors")))
  inspected = run_without_traceback(["--inspect", source, *options], capsys)
  code = run_without_traceback([source, str(tmp_path / "m"), *options], capsys)
  assert inspected <= code
  assert (code == 2) != (tmp_path / "m" / "model.json").exists()


@pytest.mark.parametrize("seed", range(4))
def test_damaged_pickles_end_in_a_message(tmp_path, capsys, seed):
  torch = pytest.importorskip("torch", reason="pip install -e '.[convert]'")
  rng = random.Random(seed)
  file = tmp_path / "model.pth"
  torch.save({"a": torch.ones(3), "b": {"c": torch.ones(2)}}, file,
             _use_new_zipfile_serialization=seed % 2 == 0)
  file.write_bytes(changed(file.read_bytes(), rng))
  assert run_without_traceback(["--inspect", str(file)], capsys) == 2


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "config.json", "model.json"])
def test_json_of_any_kind_ends_in_a_message(tmp_path, files, capsys, name):
  rng = random.Random(name)
  (tmp_path / "model.safetensors").write_bytes(files[0][1])
  for _ in range(8):
    part = {key: value(rng) for key in ("config", "dtype", "sources", "files", "bytes")}
    content = rng.choice((
        value(rng), {"weight_map": value(rng)}, {"weight_map": {"a": value(rng)}},
        {"schema": 2, "components": value(rng)}, {"schema": 2, "components": {"vae": value(rng)}},
        {"schema": 2, "components": {"../x": part}, "variant": value(rng), "sampling": value(rng)}))
    (tmp_path / name).write_text(json.dumps(content))
    run_without_traceback(["--inspect", str(tmp_path)], capsys)
  (tmp_path / name).write_text("[" * 100_000)
  assert run_without_traceback(["--inspect", str(tmp_path)], capsys) == 2
