"""Preparing a few puppets with the tiny networks, untrained."""

import dataclasses
import json
import pathlib

import numpy as np

from emv3_jax.data.index import Index
from emv3_jax.preparation import __main__ as command
from emv3_jax.preparation import run
from emv3_jax.preparation.manifest import read_manifest
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.settings import Config

CONFIG = pathlib.Path(__file__).parents[2] / "configs/prepare_tiny.py"
# One at a time, as sampling has it, so that each encoder compiles once.
SMALL = dict(frames=5, sizes=((64, 64),), dtype="float32", video_batch=1, text_batch=1,
             image_batch=1)
ARGUMENTS = [f"--config.prepare.{name}={value}" for name, value in SMALL.items()]


def make_config(variant: str = "preview", **networks) -> Config:
  """The tiny networks, at 64x64 pixels, written six times as large, without guidance."""
  _, config, _ = command.read_settings(CONFIG, [
      "program_cache=", "checkpoint=untrained", "sampling.height=64", "sampling.width=64",
      "sampling.text_scale=1", "sampling.enlarge=6"])
  if variant == "flash":
    networks["transformer"] = dataclasses.replace(
        config.model.transformer, variant="flash",
        audio_layers=config.model.audio_encoder.num_layers)
  return dataclasses.replace(config, model=dataclasses.replace(config.model, **networks))


def write_manifest(path: pathlib.Path, rows) -> pathlib.Path:
  path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
  return path


def rows_of(manifest: pathlib.Path) -> list[dict]:
  """The lines that name a video, by its whole path."""
  rows = map(json.loads, manifest.read_text().splitlines())
  return [{**row, "video": str(manifest.parent / row["video"])} for row in rows if "video" in row]


def prepare(model: Model, manifest: pathlib.Path, folder: pathlib.Path, **settings) -> Index:
  return run.prepare(model, PrepareConfig(**{**SMALL, **settings}), read_manifest(manifest), folder)


def close(got, want) -> None:
  np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
