"""The weights that a run starts from."""

import dataclasses

import jax
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import save_component
from emv3_jax.models import transformer
from emv3_jax.models.network import named_leaves, nested
from emv3_jax.models.rope import rope_table, time_sinusoid
from emv3_jax.sharding import make_mesh
from emv3_jax.training.run.initialization import initial_params
from emv3_jax.training.update.state import is_audio
from tests.compiler import QUICK
from tests.training import tiny

NETWORKS = {"preview": tiny.NETWORK, "flash": dataclasses.replace(
    tiny.NETWORK, variant="flash", audio_layers=2, audio_hidden=16, audio_tokens=3)}


def _start(network, **fields):
  config = tiny.config_of(network=network, **fields)
  return initial_params(config, transformer.network(network), make_mesh(devices=jax.devices()[:1]))


def _save(folder, params, variant):
  save_component(folder, "transformer", params, config={}, variant=variant)
  return str(folder)


def _velocity(config, params, audio_gain):
  model = transformer.network(config).bind(params)
  batch = tiny.batch_of(range(1))
  audio = batch.audio
  if config.variant == "flash":
    audio = np.random.default_rng(4).normal(size=(1, 5, 5, 2, 8)).astype(np.float32)
  context = model.embed_context(batch.text, batch.image, audio)
  known = np.concatenate([batch.mask, batch.masked_latents], axis=-1)
  return model(batch.latents, known, time_sinusoid(np.array([300.0]), config.freq_dim), context,
               rope=rope_table(tiny.GRID, config.head_dim), audio_gain=audio_gain)


@pytest.mark.parametrize("variant", NETWORKS)
def test_a_base_model_with_a_fresh_audio_path_predicts_what_it_did(variant, tmp_path):
  config = NETWORKS[variant]
  whole = named_leaves(tiny.params_of(transformer.network(config)))
  base = {name: leaf for name, leaf in whole.items() if not is_audio(name)}
  params = _start(config, checkpoint=_save(tmp_path, nested(base), "base"))
  velocity = jax.jit(lambda params, gain: _velocity(config, params, gain),
                     compiler_options=QUICK)
  np.testing.assert_array_equal(velocity(params, 1.0), velocity(nested(whole), 0.0))
  assert np.abs(velocity(nested(whole), 1.0) - velocity(nested(whole), 0.0)).max() > 1e-3
  assert not np.any(params["blocks"]["cross_attn"]["v_audio"]["kernel"])
  fresh = {name: leaf for name, leaf in named_leaves(params["audio_projection"]).items()
           if name.endswith("kernel")}
  assert all(np.any(leaf) for leaf in fresh.values())


def test_an_audio_path_is_kept_unless_it_is_to_be_fresh(tmp_path):
  whole = tiny.params_of(transformer.network(tiny.NETWORK))
  checkpoint = _save(tmp_path, whole, "preview")
  kept, fresh = (named_leaves(_start(tiny.NETWORK, checkpoint=checkpoint, fresh_audio=fresh))
                 for fresh in (False, True))
  for name, leaf in named_leaves(whole).items():
    np.testing.assert_array_equal(kept[name], leaf)
    same = name.endswith((".norm.bias", ".proj.bias"))  # zeros and ones may be what they were
    assert np.array_equal(fresh[name], leaf) != is_audio(name) or same


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
  with pytest.raises(InputError, match="names no checkpoint"):
    _start(tiny.NETWORK)
  with pytest.raises(InputError, match=str(tmp_path / "nowhere")):
    _start(tiny.NETWORK, checkpoint=str(tmp_path / "nowhere"))
  whole = tiny.params_of(transformer.network(tiny.NETWORK))
  checkpoint = _save(tmp_path / "model", whole, "preview")
  with pytest.raises(InputError, match="preview"):
    _start(NETWORKS["flash"], checkpoint=checkpoint)
