"""The small default's audio encoder: initialization and loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.geometry import FRAMES
from emv3_jax.models.audio_projection import PAD, preview_windows
from emv3_jax.models.network import Network, Params
from emv3_jax.puppets.training.settings import AudioSettings

GLANCES = 8  # weighted averages over a latent frame's tokens
MEL_MEAN, MEL_STD = -9.4, 2.7  # of the training sentences' log mel spectra, roughly


def init_params(network: Network, settings: AudioSettings) -> Params:
  """Random weights of the encoder, and of the linear heads that only training has."""
  dim, key = network.abstract["norm"]["scale"].shape[0], key_for(settings.seed, Purpose.PARAMETERS)
  frames_head = lambda key, inputs: {
      "kernel": inputs ** -0.5 * jax.random.normal(key, (inputs, FRAMES)), "bias": jnp.zeros(FRAMES)}
  head = lambda number, outputs: {
      "kernel": dim ** -0.5 * jax.random.normal(jax.random.fold_in(key, number), (dim, outputs)),
      "bias": jnp.zeros(outputs)}
  return {"encoder": network.init(key), "opening": head(1, 1), "mel": head(2, settings.bands),
          "glances": head(3, GLANCES), "frames": frames_head(jax.random.fold_in(key, 4), GLANCES * dim)}


def make_loss(network: Network, settings: AudioSettings) -> Callable:
  """The loss (params, batch, step) -> (value, metrics) of `speech.batch`.

  Two linear maps of the features of each token, of which there are two a frame: the mouth's
  opening in the frame, and the log mel spectrum about the token. And as the transformer will hear
  them, without an order: from averages over a latent frame's 17 tokens, weighted by softmax, the openings of its
  four frames. Squared errors.
  """

  def loss(params: Params, batch: dict, step: jax.Array):
    features = network.bind(params["encoder"])(batch["waveform"])  # [b, 2F, dim]
    predicted = {name: features @ params[name]["kernel"] + params[name]["bias"]
             for name in ("opening", "mel")}
    opening = jnp.repeat(batch["opening"], 2, axis=1)
    opening_error = jnp.square(predicted["opening"][..., 0] - opening).mean()
    in_latents = pooled(params, features)  # [b, f - 1, 4]
    latents_error = jnp.square(in_latents - batch["opening"][:, 1:].reshape(in_latents.shape)).mean()
    mel = (batch["mel"] - MEL_MEAN) / MEL_STD
    mel_error = jnp.square(predicted["mel"] - mel).mean()
    return opening_error + latents_error + settings.mel_weight * mel_error, {
        "opening_error": opening_error, "latents_error": latents_error, "mel_error": mel_error}

  return loss


def windows(features: AnyArray) -> jax.Array:
  """The tokens that each latent frame but the first hears, [b, 2F, d] -> [b, f - 1, 17, d]."""
  found = preview_windows(features.shape[1])[1:]
  padded = jnp.pad(features, ((0, 0), (0, 1), (0, 0)))
  return padded[:, np.where(found == PAD, features.shape[1], found)]


def pooled(params: Params, features: jax.Array) -> jax.Array:
  """The openings of the four frames of each latent frame but the first, [b, f - 1, 4]."""
  heard = windows(features)
  weights = jax.nn.softmax(heard @ params["glances"]["kernel"] + params["glances"]["bias"], axis=2)
  averages = jnp.einsum("bfmg,bfmd->bfgd", weights, heard)
  flat = averages.reshape(*averages.shape[:2], -1)
  return flat @ params["frames"]["kernel"] + params["frames"]["bias"]
