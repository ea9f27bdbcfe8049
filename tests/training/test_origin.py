"""Starting from another run's average: what may be named, what is taken, what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import save_component
from emv3_jax.io.digests import params_digest
from emv3_jax.models import transformer
from emv3_jax.models.network import named_leaves
from emv3_jax.sampling.settings import SamplingConfig
from emv3_jax.sharding import make_mesh
from emv3_jax.training.run import run_config
from emv3_jax.training.run.checkpoints import Checkpoints
from emv3_jax.training.run.export import components_folder, sampling_card
from emv3_jax.training.run.initialization import initial_params
from emv3_jax.training.run.origin import origin_of
from emv3_jax.training.update.state import is_audio
from tests.training import tiny

NETWORK = transformer.network(tiny.NETWORK)
AVERAGES = {3: tiny.params_of(NETWORK, 3), 5: tiny.params_of(NETWORK, 5)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A model folder."""
  folder = tmp_path_factory.mktemp("model")
  save_component(folder, "transformer", AVERAGES[3], config={}, variant="preview")
  return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, model):
  """The folder of a run with two checkpoints, whose weights and average are not the same."""
  folder = tmp_path_factory.mktemp("run")
  config = tiny.config_of(checkpoint=str(model), sampling=SamplingConfig(steps=7))
  with Checkpoints(folder, run_config.describe(config, {"data": "0"}), keep=2) as checkpoints:
    for step, average in AVERAGES.items():
      state = {"step": np.int32(step), "params": tiny.params_of(NETWORK, step + 1), "ema": average}
      checkpoints.save(step, jax.tree.map(jax.numpy.asarray, state))
  return folder


def first_params(checkpoint, **fields):
  config = tiny.config_of(checkpoint=str(checkpoint), **fields)
  return named_leaves(initial_params(config, transformer.network(config.model.transformer),
                                     make_mesh(devices=jax.devices()[:1])))


@pytest.mark.parametrize("below, step", [("", 5), ("checkpoints/3", 3), ("checkpoints/5", 5)])
def test_the_average_of_a_checkpoint(run, below, step):
  found = first_params(run / below)
  for name, leaf in named_leaves(AVERAGES[step]).items():
    np.testing.assert_array_equal(found[name], leaf, err_msg=name)
  told = origin_of(str(run / below)).describe()
  assert told == {"from": "run", "folder": str(run), "step": step, "name": "tiny",
                  "digest": params_digest(AVERAGES[step])}


def test_a_model_folder_tells_its_digest(model):
  assert origin_of(str(model)).describe() == {
      "from": "model folder", "folder": str(model), "digest": params_digest(AVERAGES[3])}


def test_a_fresh_audio_path(run):
  found = first_params(run, fresh_audio=True)
  for name, leaf in named_leaves(AVERAGES[5]).items():
    same = name.endswith((".norm.bias", ".proj.bias"))  # zeros and ones may be what they were
    assert np.array_equal(found[name], leaf) != is_audio(name) or same


@pytest.mark.parametrize("fields, said", [
    ({"num_heads": 6}, "model.transformer.num_heads: 4 != 6"),
    ({"num_layers": 3}, "model.transformer.num_layers: 2 != 3"),
    ({"variant": "flash", "audio_layers": 2}, "model.transformer.variant: 'preview' != 'flash'")])
def test_another_transformer_is_refused(run, fields, said):
  network = dataclasses.replace(tiny.NETWORK, **fields)
  with pytest.raises(InputError, match=f"checkpoints/5 is of another transformer .*\n(.*\n)*.*{said}"):
    first_params(run, network=network)


@pytest.mark.parametrize("spoil, said", [
    (lambda tree: tree["blocks"].pop("modulation"), "missing blocks.modulation"),
    (lambda tree: tree.update(more=np.zeros(3, np.float32)), "unexpected more"),
    (lambda tree: tree["blocks"].update(modulation=np.zeros((2, 3), np.float32)),
     r"blocks.modulation is \(2, 3\), wanted \(2, ")])
def test_other_names_and_shapes_are_refused(tmp_path, spoil, said):
  """Not filled up with anything, nor cut."""
  average = jax.tree.map(lambda leaf: leaf, AVERAGES[3])
  spoil(average)
  with Checkpoints(tmp_path, run_config.describe(tiny.config_of(), {}), keep=2) as checkpoints:
    checkpoints.save(3, jax.tree.map(jax.numpy.asarray, {"ema": average}))
  with pytest.raises(InputError, match=f"checkpoints/3 does not fit the config: .*{said}"):
    first_params(tmp_path)


def test_what_cannot_be_gone_on_from(tmp_path, run):
  with pytest.raises(InputError, match="checkpoints/4 does not exist"):
    first_params(run / "checkpoints/4")
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(InputError, match="holds no whole checkpoint yet"):
    first_params(tmp_path)
  with Checkpoints(tmp_path, {"config": {"name": "of another time", "precision": {}, "preview": {}, "fps": 3}},
                   keep=1) as checkpoints:
    checkpoints.save(1, {"ema": jax.numpy.zeros(2)})
  with pytest.raises(InputError, match="checkpoints/1 is no run's of this release.\nExport its average"):
    first_params(tmp_path)


def test_the_other_networks_and_recommendations_are_those_that_the_run_went_back_to(run, model, tmp_path):
  config = tiny.config_of(checkpoint=str(run))
  assert components_folder(config) == model
  assert sampling_card(config).recommended == {"steps": 7}
  assert components_folder(dataclasses.replace(config, components=str(tmp_path / "a"))) == tmp_path / "a"
  with Checkpoints(tmp_path, run_config.describe(tiny.config_of(checkpoint=str(tmp_path)), {}), keep=1) as checkpoints:
    checkpoints.save(1, {"ema": jax.numpy.zeros(2)})
  with pytest.raises(InputError, match="goes back to itself; set --config.components"):
    components_folder(tiny.config_of(checkpoint=str(tmp_path)))
