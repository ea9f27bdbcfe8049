"""This project's side: the networks of a model folder as sampling runs them, in float32."""

import dataclasses
import pathlib

import jax
import numpy as np

from emv3_jax import geometry, variants
from emv3_jax.components.config import COMPONENTS, PrecisionConfig
from emv3_jax.io.model_card import ModelCard
from emv3_jax.models import rope
from emv3_jax.models.precision import FLOAT32
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.denoise import Conditions as SamplingConditions
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.settings import Config
from emv3_jax.verify.inputs import Conditions, Inputs


class Ours:
  """The networks of a model folder, one in memory at a time; of umT5 one layer at a time.

  Parameters are cast to float32 as they are read; for a cast inside the programs, XLA's CPU compiler would
  keep both copies.

  Args:
    card: card of the model folder.
    parts: components that are used.
    steps: steps of the sampling run; its other settings are the released ones of the variant.
    audio_gain: gain of the audio expert; 0 if the other side has none.
  """

  def __init__(self, card: ModelCard, parts: list[str], steps: int, audio_gain: float):
    released = variants.of("transformer" in parts and card.variant or "preview").settings
    settings = {**released, "steps": steps, "audio_gain": audio_gain, "attention": "blocked",
                "branches": "in_turn"}
    config = config_lib.build(Config, {
        "name": f"{card.folder}", "model": {name: card.require(name).config for name in parts},
        "sampling": settings}, str(card.folder))
    config = dataclasses.replace(config, precision=PrecisionConfig(
        **dict.fromkeys(COMPONENTS, FLOAT32)))
    self.settings, self.config = config.settings, config.model
    self.model = Model(config, pathlib.Path(card.folder), parts)

  def text(self, inputs: Inputs) -> np.ndarray:
    """Returns the states [b, m, dim] of the prompts; those of masked tokens have no meaning."""
    return self.model.encode_tokens(inputs.ids, inputs.mask)

  def image(self, inputs: Inputs) -> np.ndarray:
    """Returns the image states [1, m, dim]."""
    with self.model.parameters("image_encoder") as params:
      return self.model.encode("image_encoder", params, inputs.pixels)

  def audio(self, inputs: Inputs) -> np.ndarray:
    """Returns the audio states [1, a, dim], or for flash those of all layers, [1, F, l, dim]."""
    with self.model.parameters("audio_encoder") as params:
      return self.model.encode("audio_encoder", params, inputs.waveform, **inputs.audio_options)

  def encode(self, videos: np.ndarray) -> np.ndarray:
    """Returns normalised latents [b, f, H8, W8, 16] of videos [b, F, H, W, 3]."""
    with self.model.parameters("vae") as params:
      return self.model.vae_encode(params, videos)

  def decode(self, latents: np.ndarray) -> np.ndarray:
    """Returns videos [b, F, H, W, 3], neither clamped nor rounded."""
    network = self.model.network("vae")
    with self.model.parameters("vae") as params:
      run = jax.jit(lambda params, latents: network.bind(params).decode(latents))
      return np.asarray(run(params, latents))

  def transformer(self, taus, inputs: Inputs, conditions: Conditions,
                  sample: bool) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns velocities [taus, f, H8, W8, 16] of the latents, and the final latents of sampling.

    Args:
      taus: timesteps in [0, 1000]; if empty, no velocities are computed.
      inputs, conditions: inputs of the network.
      sample: whether to do the sampling run.
    """
    with self.model.parameters("transformer") as params:
      velocities = self._velocities(params, taus, inputs, conditions) if taus else None
      return velocities, self._sampled(params, inputs, conditions) if sample else None

  def _velocities(self, params, taus, inputs: Inputs, conditions: Conditions) -> np.ndarray:
    network, config = self.model.network("transformer"), self.config.transformer
    f, height, width = inputs.latents.shape[1:4]
    table = rope.rope_table((f, *geometry.grid_of_latents((height, width))), config.head_dim)

    @jax.jit
    def run(params, sinusoid, conditions):
      model = network.bind(params)
      context = model.project(conditions["prompt"], conditions["image"], conditions["audio"])
      return model(inputs.latents, conditions["condition"], sinusoid, context, rope=table,
                   face_mask=inputs.face_mask, audio_gain=self.settings.audio_gain)

    arrays = dataclasses.asdict(conditions)
    return np.concatenate([np.asarray(run(
        params, rope.time_sinusoid(np.array([tau]), config.freq_dim), arrays)) for tau in taus])

  def _sampled(self, params, inputs: Inputs, conditions: Conditions) -> np.ndarray:
    found = self.model.denoiser().run(params, self.model.whole(inputs.noise), SamplingConditions(
        text={"prompt": conditions.prompt, "negative": conditions.negative},
        image=conditions.image, audio=conditions.audio,
        condition=self.model.whole(conditions.condition),
        face_mask=None if inputs.face_mask is None else self.model.whole(inputs.face_mask)))
    return np.asarray(found, np.float32)
