"""Seeded damage to files, names and configs: a message or success, never a traceback."""

import json
import random

import numpy as np
import pytest
from safetensors.numpy import save

from convert.__main__ import main
from tests.convert.test_conversion import official

NAMES = ("", ".", "a\nb\nc\nd\ne", "x" * 5000, "\ud83d", "blocks.999999999.norm1.weight", "blocks.-1.q",
         "blocks.0.norm1.weight.", "model.model.model.norm.weight", "__metadata__", "\u2028", "norm.weight\0")
VALUES = (None, True, -1, 0, 3, 1 << 70, 1e999, float("nan"), "", "x", [], {}, [[]], [None], {"a": []}, "F32")


def value(random):
  return random.choice(VALUES)


def changed(content: bytes, random) -> bytes:
  """Some bytes of the first thousand replaced, or a piece lost or doubled."""
  data = bytearray(content)
  kind = random.randrange(4)
  at = random.randrange(min(len(data), 1000))
  if kind == 0:
    for _ in range(random.randrange(1, 30)):
      data[random.randrange(min(len(data), 1000))] = random.randrange(256)
  elif kind == 1:
    del data[at:]
  elif kind == 2:
    del data[at:at + random.randrange(1, 100)]
  else:
    data[at:at] = data[:random.randrange(1, 200)]
  return bytes(data)


def other_header(content: bytes, random) -> bytes:
  """Names, dtypes, shapes and offsets of some tensors replaced."""
  end = 8 + int.from_bytes(content[:8], "little")
  header = json.loads(content[8:end])
  for name in random.sample(sorted(header), random.randrange(1, 4)):
    kind = random.randrange(6)
    if kind == 0:
      header[random.choice(NAMES)] = header.pop(name)
    elif kind == 1:
      header[name] = value(random)
    elif kind == 2:
      header[name]["dtype"] = random.choice(("F64", "I8", "F8_E4M3", "BOOL", "F4", value(random)))
    elif kind == 3:
      header[name]["shape"] = random.choice(([], [0], [1] * 70, [value(random)], value(random)))
    elif kind == 4:
      header[name]["data_offsets"] = random.choice(([0], [9, 3], [value(random), 4], value(random)))
    else:
      shape = header[name]["shape"]
      header[name]["shape"] = random.choice((shape[::-1], [1, *shape], [int(np.prod(shape))], [*shape, 0]))
      if header[name]["shape"][-1] == 0:
        header[name]["data_offsets"] = [0, 0]
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + content[end:]


def config(random) -> dict:
  """Fields of config files and of networks, with values of any kind."""
  names = ("num_heads", "dim", "d_model", "num_layers", "num_hidden_layers", "patch_size", "vision_config",
           "conv_stride", "conv_kernels", "latents_mean", "latent_std", "ffn_dim", "vocab_size", "text_len",
           "attention_head_dim", "num_attention_heads", "transformer", "text_encoder", "variant")
  return {name: value(random) for name in random.sample(names, random.randrange(1, 6))}


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
    (tmp_path / "config.json").write_text(json.dumps(config(rng)))
  elif kind == 3:
    options = [f"--config_json={json.dumps(config(rng))}"]
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
