"""Full-size files: memory of the conversion and the round trip (`pytest --slow`, about 30 GB of disk).

Each test prints its figures (`-s` shows them) and deletes what it made.
"""

import json
import math
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from convert.tensors import open_tensors
from tests.convert import released_names

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
  yield tmp_path
  shutil.rmtree(tmp_path)


def measured(*arguments) -> dict:
  """Runs the command in its own process and returns seconds and peak memory."""
  done = subprocess.run([sys.executable, "-m", "scripts.peak_memory", *map(str, arguments)],
                        cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["preview_transformer", "flash_transformer"])
def test_a_transformer_takes_less_memory_than_its_file_and_comes_back(folder, name):
  shapes = {key: (shape, "bfloat16")
            for key, (shape, _) in released_names.checkpoint(name).items()}
  source = folder / "in.safetensors"
  released_names.write_safetensors(source, shapes)
  size = source.stat().st_size
  there = measured(source, folder / "m", "--dtype=bfloat16")
  back = measured("--export", folder / "m", folder / "out.safetensors")
  for direction, figures in (("convert", there), ("export", back)):
    ratio = figures["peak_bytes"] / size
    print(f"{name} {direction}: {figures['seconds']} s, peak {ratio:.2f} x file of {size:,} bytes")
    assert ratio <= 1.3
  one, two = open_tensors([source]), open_tensors([folder / "out.safetensors"])
  assert one.keys() == two.keys()
  for key, tensor in one.items():
    np.testing.assert_array_equal(tensor.make().view(np.uint16), two[key].make().view(np.uint16))


def test_the_text_encoder_converts_in_less_memory_than_it_has(folder):
  torch = pytest.importorskip("torch", reason="pip install -e '.[convert]'")
  shapes = released_names.checkpoint("umt5_xxl_encoder")
  source = folder / "models_t5_umt5-xxl-enc-bf16.pth"
  with torch.serialization.skip_data():  # a sparse file: all zeros, few blocks on the disk
    torch.save({key: torch.empty(shape, dtype=torch.bfloat16)
                for key, (shape, _) in shapes.items()}, source)
  figures = measured(source, folder / "m")
  size = sum(2 * math.prod(shape) for shape, _ in shapes.values())
  ratio = figures["peak_bytes"] / size
  print(f"umt5: {figures['seconds']} s, peak {ratio:.2f} x {size:,} bytes")
  assert ratio <= 0.6
