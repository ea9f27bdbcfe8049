"""Clips of one window padded to a few lengths, so that a clip of another length compiles nothing.

What stands after the clip is in no result: its tokens are keys of no attention, its sound is padding of the last
window of audio tokens, and its latents are dropped before they are decoded. Everything else works frame by frame, or
looks back alone (the VAE). It costs its share of the work.
"""

import dataclasses

import numpy as np

from emv3_jax import geometry, variants
from emv3_jax.arrays import AnyArray
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.sampling.conditions import Conditions
from emv3_jax.sampling.settings import Settings


def padded_latents(settings: Settings, frames: int) -> int:
  """Returns the latent frames that a clip of `frames` latent frames is sampled with, at most those of a window."""
  every = settings.length_buckets
  if not every or frames > geometry.latent_frames(settings.max_frames):
    return frames
  return min(-(-frames // every) * every, geometry.latent_frames(settings.max_frames))


def padded(conditions: Conditions, settings: Settings, net: TransformerConfig) -> Conditions:
  """Pads the conditions of a clip with zeros, and notes the clip's own latent frames in `Conditions.frames`."""
  if not settings.length_buckets:
    return conditions
  frames = conditions.condition.shape[1]
  size = padded_latents(settings, frames)
  sound = variants.of(net.variant).input_shape(net, geometry.frames_of(size))[0]
  face_mask = conditions.face_mask
  if face_mask is not None and face_mask.ndim == 3:  # by latent frame
    face_mask = extended(face_mask, 2, size)
  return dataclasses.replace(
      conditions, audio=extended(conditions.audio, 1, sound), condition=extended(conditions.condition, 1, size),
      face_mask=face_mask, frames=np.int32(frames))


def extended(array: AnyArray, axis: int, length: int) -> np.ndarray:
  """Appends zeros to an array, up to `length` along `axis`."""
  padding = [(0, 0)] * array.ndim
  padding[axis] = (0, length - array.shape[axis])
  return np.pad(np.asarray(array), padding)
