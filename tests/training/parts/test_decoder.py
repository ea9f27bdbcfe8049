"""The decoder is refined without its encoder, on which other weights depend."""

import jax
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.models import vae as vae_network
from emv3_jax.models.network import named_leaves
from emv3_jax.training.parts.settings import Learning, Phase, VAESettings
from scripts import train_tiny

CONFIG = vae_network.VAEConfig(base_dim=4, z_dim=4, multipliers=(1, 1, 1, 1), num_res_blocks=1,
                               latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4)
SETTINGS = VAESettings(phases=(Phase(5, 1, 2),), clips=2,
                       learning=Learning(rate=1e-2, warmup=1, horizon=100))


@pytest.fixture
def small(monkeypatch):
  known = vae_network.network
  monkeypatch.setattr(train_tiny.vae_network, "network",
                      lambda _, *options, **named: known(CONFIG, *options, **named))
  for name, stage in (("vae", train_tiny.VAEStage), ("decoder", train_tiny.DecoderStage)):
    monkeypatch.setitem(train_tiny.STAGES, name, (stage, lambda: SETTINGS))
  monkeypatch.setattr(train_tiny, "STATISTICS", 2)


def test_only_the_decoder_changes(small, tmp_path):
  with pytest.raises(InputError, match="vae holds no checkpoint"):
    train_tiny.open_stage("decoder", tmp_path)
  whole = train_tiny.open_stage("vae", tmp_path)
  train_tiny.train(whole, "vae")
  before = named_leaves(train_tiny.trained(whole)[1])
  stage = train_tiny.open_stage("decoder", tmp_path)
  train_tiny.train(stage, "decoder")
  step, after = train_tiny.trained(stage)
  after = named_leaves(after)
  assert step == 2 and before.keys() == after.keys()
  for name, leaf in after.items():
    same = np.array_equal(leaf, before[name])
    assert same == name.startswith(("encoder", "to_moments")) or not np.any(leaf), name
  video = np.zeros((1, 5, 16, 16, 3), np.uint8)
  encode = jax.jit(lambda params: stage.plain.bind(params).encode(video))
  latents = [encode(params) for params in (train_tiny.trained(whole)[1], train_tiny.trained(stage)[1])]
  np.testing.assert_array_equal(*latents)
