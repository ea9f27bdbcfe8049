"""The gates tell a good part from a bad one."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from emv3_jax.puppets.judging import gates
from emv3_jax.puppets.training import footage
from emv3_jax.puppets.world.sentences import sentences


@dataclasses.dataclass(frozen=True)
class Copy:
  """In the place of a VAE: gives back what it got, darker by `loss`."""

  loss: float

  def bind(self, params):
    return self

  def encode(self, video):
    return video.astype(jnp.float32) / 127.5 - 1

  def decode(self, latents, postprocess):
    return postprocess(latents * (1 - self.loss))


@dataclasses.dataclass(frozen=True)
class Ear:
  """In the place of an audio encoder: two tokens a frame, loudness and noise or noise alone."""

  hears: bool

  def bind(self, params):
    return self.listen

  def listen(self, waveform):
    tokens = waveform[:, :-80].reshape(len(waveform), -1, 320)
    loud = jnp.sqrt(jnp.square(tokens).mean(-1, keepdims=True))
    noise = jnp.asarray(np.random.default_rng(0).normal(size=loud.shape), jnp.float32)
    return jnp.concatenate([loud * self.hears, noise], -1)


@functools.cache
def puppets():
  return footage.render(0, 4, "held_out", frames=9)


def test_vae_that_copies_passes():
  figures = gates.check_vae(Copy(0.02), {}, puppets())
  assert figures["opening_r"] > 0.99 and figures["psnr"] > 35
  assert gates.unmet("vae", figures) == []


def test_vae_that_shows_grey_fails():
  figures = gates.check_vae(Copy(1.0), {}, puppets())
  assert max(figures["mouth_psnr"], figures["hand_psnr"]) < 15
  assert figures["opening_r"] == 0  # no mouth is to be seen
  assert gates.unmet("vae", figures)[0] == "opening_r 0 < 0.95"
  assert len(gates.unmet("vae", figures)) == 3


def test_audio_encoder_that_hears_beats_one_that_does_not():
  known, held_out = sentences("train")[::12], sentences("held_out")[::9]
  hears = gates.check_audio(Ear(True), {}, known, held_out)
  deaf = gates.check_audio(Ear(False), {}, known, held_out)
  assert hears["opening_r"] > 0.5 > 0.1 > deaf["opening_r"]
  assert hears["opening_least_r"] <= hears["opening_median_r"]
