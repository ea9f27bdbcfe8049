"""A preview is what sampling makes of the exported model."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import tiny
from emv3_jax.config import build
from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import save_component, write_tokenizer
from emv3_jax.sampling import programs
from emv3_jax.sampling import settings as sampling
from emv3_jax.sampling.clip import sample
from emv3_jax.sampling.model import load
from emv3_jax.training.exporting import OTHERS, export_model
from emv3_jax.training.previews import ClipPreview
from emv3_jax.training.settings import Config, PreviewConfig

ASSETS = tiny.ASSETS
SAMPLING = build(sampling.Config, tiny.get_config())


@pytest.fixture(scope="module")
def components(tmp_path_factory):
  """A model folder with all networks but the transformer."""
  folder = tmp_path_factory.mktemp("components")
  for name in OTHERS:
    save_component(folder, name, programs.network(SAMPLING, name).untrained(0),
                   config=dataclasses.asdict(getattr(tiny.MODEL, name)),
                   sources=[{"file": name, "sha256": name, "bytes": 1}])
  write_tokenizer(folder, SAMPLING.tokenizer)
  return folder


def config_of(components, **preview) -> Config:
  settings = dataclasses.replace(SAMPLING.sampling, steps=2)
  return Config("preview", checkpoint="untrained", components=str(components), model=SAMPLING.model,
                precision=SAMPLING.precision, preview=PreviewConfig(
                    audio=str(ASSETS / "speech.wav"), image=str(ASSETS / "portrait.png"),
                    prompt="a puppet", face_box="8,56,8,56", sampling=settings, **preview))


@pytest.mark.slow
def test_previews_are_samples_of_the_exported_model(components, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))  # of the prompt cache
  config = config_of(components)
  average = programs.network(SAMPLING, "transformer").untrained(3)
  average = jax.tree.map(lambda leaf: jax.device_put(leaf, jax.devices()[0]), average)
  shown = ClipPreview(config).sample(average)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(average))

  export_model(config, average, 1, tmp_path / "model")
  model = load(tmp_path / "model", dataclasses.replace(
      SAMPLING, sampling=config.preview.sampling, tokenizer=""))
  made = sample(model, sampling.Request(
      audio=ASSETS / "speech.wav", image=ASSETS / "portrait.png", prompt="a puppet",
      face_box="8,56,8,56", seed=config.seed))
  np.testing.assert_array_equal(shown.frames, made.frames)
  assert shown.frames.std() > 1


def test_what_a_preview_needs_is_checked_first(components, tmp_path):
  config = config_of(components)
  preview = dataclasses.replace(config.preview, audio=str(tmp_path / "none.wav"))
  with pytest.raises(InputError, match="none.wav"):
    ClipPreview(dataclasses.replace(config, preview=preview))
  preview = dataclasses.replace(config.preview, image="")
  with pytest.raises(InputError, match="needs image"):
    ClipPreview(dataclasses.replace(config, preview=preview))
  with pytest.raises(InputError, match="does not exist"):
    ClipPreview(dataclasses.replace(config, components=str(tmp_path / "none")))


def test_linked_components_take_no_space(components, tmp_path):
  config = config_of(components)
  export_model(config, programs.network(SAMPLING, "transformer").untrained(3), 1, tmp_path)
  for path in (components / "vae").rglob("*"):
    if path.is_file():
      assert path.samefile(tmp_path / "vae" / path.relative_to(components / "vae"))
  load(tmp_path, dataclasses.replace(SAMPLING, tokenizer=""))  # checks all that the card says
