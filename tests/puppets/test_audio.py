"""The audio encoder's training: what it hears, what it predicts, that it learns."""

import chex
import jax
import numpy as np

from emv3_jax.models.wav2vec2 import Wav2Vec2Config, network
from emv3_jax.puppets.training import audio, speech
from emv3_jax.puppets.training.settings import AudioSettings, Phase

NETWORK = network(Wav2Vec2Config(dim=16, conv_dim=16, num_layers=1, num_heads=2, ffn_dim=32))
SETTINGS = AudioSettings(bands=6, variants=1)
WINDOW = Phase(frames=9, batch=2, steps=1)


def test_batches_depend_on_seed_and_step_alone():
  first, again = (speech.batch(SETTINGS, WINDOW, 1) for _ in range(2))
  chex.assert_trees_all_equal(first, again)
  assert {name: leaf.shape for name, leaf in first.items()} == {
      "waveform": (2, 9 * 640 + 80), "opening": (2, 9), "mel": (2, 18, 6)}
  assert not np.array_equal(first["waveform"], speech.batch(SETTINGS, WINDOW, 2)["waveform"])
  assert ((first["opening"] >= 0) & (first["opening"] <= 1)).all()


def test_mel_bands_tell_pitches_apart():
  seconds = np.arange(16_000) / 16_000
  loudest = [speech.log_mel(np.sin(2 * np.pi * hertz * seconds).astype(np.float32), 20)[25].argmax()
             for hertz in (200, 1000, 4000)]
  assert loudest[0] < loudest[1] < loudest[2]
  assert speech.log_mel(np.zeros(3200, np.float32), 20).shape == (10, 20)


def test_opening_follows_the_sound():
  many = [speech.batch(SETTINGS, Phase(25, 4, 1), step) for step in range(4)]
  level = np.concatenate([one["mel"][:, ::2].mean(-1).ravel() for one in many])
  opening = np.concatenate([one["opening"].ravel() for one in many])
  assert np.corrcoef(level, opening)[0, 1] > 0.5


def test_learns():
  held = speech.batch(SETTINGS, WINDOW, 0)
  loss = lambda params: audio.make_loss(NETWORK, SETTINGS)(params, held, 0)[0]
  slope = jax.jit(jax.value_and_grad(loss),
                  compiler_options={"xla_backend_optimization_level": 0})
  params, losses = audio.init_params(NETWORK, SETTINGS), []
  for _ in range(10):
    value, gradients = slope(params)
    losses.append(float(value))
    params = jax.tree.map(lambda leaf, change: leaf - 0.05 * change, params, gradients)
  assert losses[-1] < 0.7 * losses[0]
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients["encoder"]["convs"]))
