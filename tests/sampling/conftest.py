"""A small model, a portrait and a voice that the sampling tests share."""

import pathlib

import numpy as np
from PIL import Image
import pytest
import soundfile

from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.model import Model, load
from emv3_jax.sampling.settings import Config

TINY = pathlib.Path(__file__).parents[2] / "configs/tiny.py"


def tiny_config(*overrides: str) -> Config:
  values = config_lib.read_config_file(TINY)
  config_lib.override(values, ["checkpoint=untrained", "sampling.steps=2", "sampling.max_area=2304",
                              *overrides], Config)
  return config_lib.build(Config, values)


@pytest.fixture(scope="session")
def model() -> Model:
  """Untrained; kept for the session so that each program compiles once."""
  return load(config=tiny_config())


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, pathlib.Path]:
  """Paths of a portrait of 48x48 pixels, another picture and a voice of 5 video frames."""
  folder = tmp_path_factory.mktemp("inputs")
  rng = np.random.default_rng(0)
  paths = {"image": folder / "portrait.png", "last_image": folder / "last.png",
           "audio": folder / "voice.wav"}
  for name in ("image", "last_image"):
    Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(paths[name])
  time = np.arange(3200) / 16000
  soundfile.write(paths["audio"], 0.3 * np.sin(2 * np.pi * 220 * time), 16000)
  return paths
