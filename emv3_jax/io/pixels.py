"""Conversion of decoded pixels to bytes, and enlargement of pictures."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image


def to_uint8(video: Float[jax.Array | np.ndarray, "*shape"]) -> UInt8[jax.Array, "*shape"]:
  """Converts pixels in [-1, 1] to uint8: x / 2 + 0.5, clamped to [0, 1], times 255, truncated, as in the released code.

  255 is therefore reached only at exactly 1. Pure; may be jitted.
  """
  unit = jnp.clip(jnp.asarray(video, jnp.float32) / 2 + 0.5, 0, 1)
  return (unit * 255).astype(jnp.uint8)


def enlarged(frames: UInt8[np.ndarray, "F H W 3"], factor: int) -> UInt8[np.ndarray, "F H2 W2 3"]:
  """Enlarges each frame by `factor` in height and width, by Lanczos."""
  if factor == 1:
    return frames
  size = (factor * frames.shape[2], factor * frames.shape[1])
  return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
                   for frame in frames])
