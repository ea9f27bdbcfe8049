"""A preview is what sampling makes of the exported model."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from configs import tiny, train_tiny
from emv3_jax.components import programs
from emv3_jax.data.order import Order
from emv3_jax.diffusion import flow
from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import save_component, write_tokenizer
from emv3_jax.runtime.config import build
from emv3_jax.sampling import settings as sampling
from emv3_jax.sampling.clip import sample
from emv3_jax.sampling.model import load
from emv3_jax.training.monitor import previews
from emv3_jax.training.monitor.previews import ClipPreview, first_seen
from emv3_jax.training.run.export import OTHERS, export_model
from emv3_jax.training.settings import Config, PreviewConfig

ASSETS = tiny.ASSETS
SAMPLING = build(sampling.Config, tiny.get_config())


@pytest.fixture(scope="module")
def components(tmp_path_factory):
  """A model folder with all networks but the transformer."""
  folder = tmp_path_factory.mktemp("components")
  for name in OTHERS:
    save_component(folder, name, programs.network(SAMPLING.model, SAMPLING.precision, name).untrained(0),
                   config=dataclasses.asdict(getattr(tiny.MODEL, name)),
                   sources=[{"file": name, "sha256": name, "bytes": 1}])
  write_tokenizer(folder, SAMPLING.tokenizer)
  return folder


def config_of(components, **preview) -> Config:
  settings = dataclasses.replace(train_tiny.SAMPLING, steps=2)
  return Config("preview", checkpoint="untrained", components=str(components), model=SAMPLING.model,
                precision=SAMPLING.precision, sampling=settings, preview=PreviewConfig(
                    audio=str(ASSETS / "speech.wav"), image=str(ASSETS / "portrait.png"),
                    prompt="a puppet", face_box="8,56,8,56", **preview))


@pytest.mark.slow
def test_previews_are_samples_of_the_exported_model(components, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))  # of the prompt cache
  config = config_of(components)
  average = programs.network(SAMPLING.model, SAMPLING.precision, "transformer").untrained(3)
  average = jax.tree.map(lambda leaf: jax.device_put(leaf, jax.devices()[0]), average)
  shown = ClipPreview(config).sample(average)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(average))

  export_model(config, average, 1, tmp_path / "model")
  model = load(tmp_path / "model")  # and nothing else is said
  assert model.resolved.origins["steps"] == "model.json"
  assert model.config.sampling.allocation == config.loss.allocation == "phased"
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


def test_held_out_records_count_once():
  order = Order(np.array([0] * 6 + [1] * 2), 4, seed=None)
  found = first_seen(order, 8, 9)
  counted = [numbers[new].tolist() for numbers, new in found]
  assert sorted(sum(counted, [])) == list(range(8)) and all(counted)
  assert all(len(numbers) == 4 for numbers, _ in found)
  assert len(first_seen(order, 8, 2)) == 2


def test_held_out_lines_by_band_and_task(rng):
  """Beside the errors of examples those of the best linear guess for the same cells."""
  cells = rng.normal(size=(4, 500, 3)) * (1, 2, 3) * np.array([1, 1, 2, 2])[:, None, None] + 1
  moments = np.stack([cells.mean(axis=1), np.square(cells).mean(axis=1)], axis=1)
  error, task = np.arange(20.0).reshape(4, 5), np.array([1, 1, 3, 3])
  told = previews._means(error, task, moments)
  assert told["loss"] == error.mean() and told["loss/sigma_0.2-0.4"] == error[:, 1].mean()
  assert told["loss/i2v"] == error[:2].mean() and told["loss/lipsync"] == error[2:].mean()
  assert told["linear/sigma_0.2-0.4"] == pytest.approx(float(flow.linear_error(cells, 0.3)), rel=1e-5)
  of_task = [flow.linear_error(cells[2:], sigma) for sigma in (0.1, 0.3, 0.5, 0.7, 0.9)]
  assert told["linear/lipsync"] == pytest.approx(np.mean(of_task), rel=1e-5)
  assert len(told) == 1 + 2 * (5 + 2)


def test_linked_components_take_no_space(components, tmp_path, monkeypatch):
  """And folders may be named from where one is."""
  monkeypatch.chdir(tmp_path)
  model = pathlib.Path("model")
  export_model(config_of(components), programs.network(SAMPLING.model, SAMPLING.precision, "transformer").untrained(3), 1, model)
  for path in (components / "vae").rglob("*"):
    if path.is_file():
      assert path.samefile(model / "vae" / path.relative_to(components / "vae"))
  load(model, dataclasses.replace(SAMPLING, tokenizer=""))  # checks all that the card says
