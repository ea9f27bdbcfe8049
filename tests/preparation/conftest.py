"""The tiny encoders and a few clips that the tests of preparation share."""

import json
import pathlib

import numpy as np
import pytest

from emv3_jax.preparation import run
from emv3_jax.puppets import world
from emv3_jax.puppets.world.mp4 import box_around
from emv3_jax.sampling.model import Model, load
from tests.preparation.preparing import make_config, write_manifest


@pytest.fixture(scope="session")
def model() -> Model:
  """Encoders of preview, untrained."""
  return load(config=make_config(), parts=run.ENCODERS)


@pytest.fixture(scope="session")
def flash() -> Model:
  """Encoders of flash: its audio encoder gives all layers."""
  return load(config=make_config("flash"), parts=run.ENCODERS)


@pytest.fixture(scope="session")
def footage(tmp_path_factory) -> pathlib.Path:
  """A manifest of three puppets, each with one box around its face: two clips of 5 frames, one of 13."""
  folder = tmp_path_factory.mktemp("clips")
  world.write_mp4s(folder / "short", count=2, frames=5)
  world.write_mp4s(folder / "long", count=1, first=2, frames=13)
  rows = []
  for name in ("short", "long"):
    for line in (folder / name / "clips.jsonl").read_text().splitlines():
      row = json.loads(line)
      boxes = {key: box_around(np.array(row[key])) for key in ("face_box", "mouth_box")}
      rows.append({**row, **boxes, "video": f"{name}/{row['video']}"})
  return write_manifest(folder / "clips.jsonl", rows)
