"""The encoders as programs, planned when asked for by name."""

import jax
import jax.numpy as jnp

from emv3_jax import sharding, variants
from emv3_jax.components import programs as component_programs
from emv3_jax.plan import flops
from emv3_jax.plan.programs import Place, Program, Window
from emv3_jax.sampling.settings import Config


def text_encoder(config: Config, window: Window, place: Place) -> Program:
  """umT5 of one prompt, all layers on the device. One device streams them from disk by default."""
  tokens = place.whole((1, config.model.transformer.text_tokens), jnp.int32)
  return _encoder("text_encoder", config, place, tokens, tokens)


def image_encoder(config: Config, window: Window, place: Place) -> Program:
  """CLIP of one picture."""
  side = config.model.image_encoder.image_size
  return _encoder("image_encoder", config, place, place.whole((1, side, side, 3)))


def audio_encoder(config: Config, window: Window, place: Place) -> Program:
  """wav2vec 2.0 of the window's sound."""
  variant = variants.of(config.model.transformer.variant)
  waveform = place.whole((1, variant.num_samples(window.frames)))
  return _encoder("audio_encoder", config, place, waveform, **variant.encoder_options(window.frames))


def _encoder(name: str, config: Config, place: Place, *arrays: jax.ShapeDtypeStruct,
             **static) -> Program:
  network = component_programs.network(config.model, config.precision, name)
  params = sharding.abstract_on(network.abstract, place.mesh, name)
  run = component_programs.encoder(network, place.mesh, tuple(sorted(static.items())))
  traced = run.trace(params, *arrays)
  return Program(traced, params, flops.count(traced))


ENCODERS = {"text_encoder": text_encoder, "image_encoder": image_encoder,
            "audio_encoder": audio_encoder}
