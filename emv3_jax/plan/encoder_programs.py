"""Programs of the encoders, which are planned only if they are selected by name."""

import jax
import jax.numpy as jnp

from emv3_jax import sharding, variants
from emv3_jax.components import programs as component_programs
from emv3_jax.plan import flops
from emv3_jax.plan.programs import Deployment, Program, Window
from emv3_jax.sampling.settings import Config


def text_encoder(config: Config, window: Window, deployment: Deployment) -> Program:
  """Traces umT5 for one prompt with all layers on the device; one device streams them from disk by default."""
  tokens = deployment.whole((1, config.model.transformer.text_tokens), jnp.int32)
  return _encoder("text_encoder", config, deployment, tokens, tokens)


def image_encoder(config: Config, window: Window, deployment: Deployment) -> Program:
  """Traces CLIP for one picture."""
  side = config.model.image_encoder.image_size
  return _encoder("image_encoder", config, deployment, deployment.whole((1, side, side, 3)))


def audio_encoder(config: Config, window: Window, deployment: Deployment) -> Program:
  """Traces wav2vec 2.0 for the waveform of the window."""
  variant = variants.of(config.model.transformer.variant)
  waveform = deployment.whole((1, variant.num_samples(window.frames)))
  return _encoder("audio_encoder", config, deployment, waveform, **variant.encoder_options(window.frames))


def _encoder(name: str, config: Config, deployment: Deployment, *arrays: jax.ShapeDtypeStruct,
             **static) -> Program:
  network = component_programs.network(config.model, config.precision, name)
  params = sharding.abstract_on(network.abstract, deployment.mesh, name)
  run = component_programs.encoder(network, deployment.mesh, tuple(sorted(static.items())))
  traced = run.trace(params, *arrays)
  return Program(traced, params, flops.count(traced))


ENCODERS = {"text_encoder": text_encoder, "image_encoder": image_encoder,
            "audio_encoder": audio_encoder}
