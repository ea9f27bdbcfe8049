"""The small default's audio encoder: initialization and loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.models.network import Network, Params
from emv3_jax.puppets.training.settings import AudioSettings

MEL_MEAN, MEL_STD = -9.4, 2.7  # of the training sentences' log mel spectra, roughly


def init_params(network: Network, settings: AudioSettings) -> Params:
  """Random weights of the encoder, and of the linear heads that only training has."""
  dim, key = network.abstract["norm"]["scale"].shape[0], key_for(settings.seed, Purpose.PARAMETERS)
  head = lambda number, outputs: {
      "kernel": dim ** -0.5 * jax.random.normal(jax.random.fold_in(key, number), (dim, outputs)),
      "bias": jnp.zeros(outputs)}
  return {"encoder": network.init(key), "opening": head(1, 1), "mel": head(2, settings.bands)}


def make_loss(network: Network, settings: AudioSettings) -> Callable:
  """The loss (params, batch, step) -> (value, metrics) of `speech.batch`.

  Two linear maps of the features of each token, of which there are two a frame: the mouth's
  opening in the frame, and the log mel spectrum about the token. Squared errors.
  """

  def loss(params: Params, batch: dict, step: jax.Array):
    features = network.bind(params["encoder"])(batch["waveform"])  # [b, 2F, dim]
    predicted = {name: features @ params[name]["kernel"] + params[name]["bias"]
             for name in ("opening", "mel")}
    opening = jnp.repeat(batch["opening"], 2, axis=1)
    opening_error = jnp.square(predicted["opening"][..., 0] - opening).mean()
    mel = (batch["mel"] - MEL_MEAN) / MEL_STD
    mel_error = jnp.square(predicted["mel"] - mel).mean()
    return opening_error + settings.mel_weight * mel_error, {
        "opening_error": opening_error, "mel_error": mel_error}

  return loss
