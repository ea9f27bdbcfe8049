"""Sampling of a clip that fits into one window, from what the encoders say to latents."""

from collections.abc import Callable
import dataclasses

import jax
from jaxtyping import Float32
import numpy as np

from emv3_jax import sharding, variants
from emv3_jax.diffusion.noise import initial_noise
from emv3_jax.sampling import cached_steps, length_buckets
from emv3_jax.sampling.denoise import Conditions
from emv3_jax.sampling.inputs import Inputs
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.profile import Profile
from emv3_jax.sampling.window_conditions import Encoded, window_text


def conditions_of(model: Model, inputs: Inputs, encoded: Encoded, condition: Float32[np.ndarray, "1 f H8 W8 20"]
                  ) -> Conditions:
  """Returns the conditions of the network, on the host.

  Args:
    model: the networks.
    inputs: of the clip.
    encoded: its prompts, voice and picture.
    condition: mask channels and latents of the masked video.
  """
  variant = variants.of(model.config.model.transformer.variant)
  return Conditions(
      text=window_text(inputs, encoded.text, 0, inputs.frames), image=encoded.image,
      audio=variant.network_input(encoded.features)[None], condition=condition,
      face_mask=None if inputs.face_mask is None else inputs.face_mask[None])


def placed(model: Model, inputs: Inputs, conditions: Conditions) -> tuple[jax.Array, Conditions]:
  """Returns the initial noise [1, f, H8, W8, c] and the conditions, padded as the settings say and on the mesh."""
  conditions = length_buckets.padded(conditions, model.config.settings, model.config.model.transformer)
  frames, height8, width8 = conditions.condition.shape[1:4]
  noise = np.asarray(initial_noise(inputs.seed, frames, height8, width8, model.config.model.vae.z_dim))
  face_mask = conditions.face_mask
  return model.whole(noise[None]), dataclasses.replace(
      conditions, condition=model.whole(conditions.condition),
      face_mask=None if face_mask is None else model.whole(face_mask))


def denoise(model: Model, inputs: Inputs, conditions: Conditions, profile: Profile, progress: Callable
            ) -> Float32[np.ndarray, "f H8 W8 c"]:
  """Denoises the window to latents, and counts how often the network runs."""
  with model.parameters("transformer") as params:
    denoiser = model.denoiser()
    runs = model.runs(params, denoiser.schedule)
    latents = cached_steps.denoise(denoiser, params, *placed(model, inputs, conditions), runs, progress)
    profile.evaluations += cached_steps.evaluations(denoiser.schedule, runs)
    return sharding.fetch(latents)[0, :conditions.condition.shape[1]]
