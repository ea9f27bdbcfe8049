"""Whether a clip's own arrays fit into this machine, before any of them is made."""

import math

from absl import logging

from emv3_jax import geometry
from emv3_jax.errors import InputError
from emv3_jax.runtime.machine import memory as of_machine

NEAR = 0.5  # of the machine's memory: from here on there is a warning
# Bytes a pixel of each frame that must lie in memory at once: float32 input (known and masked
# frames, 3 channels), uint8 frames as decoded.
_IN, _OUT = 12, 3
# A latent cell, float32: latents, and mask and masked-video latents.
_LATENT = 4 * (geometry.CHANNELS + geometry.FRAMES + geometry.CHANNELS)


def needed(size: tuple[int, int], frames: int, enlarge: int = 1) -> int:
  """Bytes of the inputs, latents and pictures of a clip; networks and their work come on top.

  Args:
    size: (H, W) sampled at, in pixels.
    frames: sampled, 4k + 1.
    enlarge: factor by which pictures are written larger.
  """
  pixels = size[0] * size[1]
  cells = math.prod(geometry.latent_size(size)) * geometry.latent_frames(geometry.sample_frames(frames))
  written = _OUT * enlarge ** 2 if enlarge > 1 else 0
  return pixels * frames * (_IN + _OUT + written) + cells * _LATENT


def check(size: tuple[int, int], frames: int, enlarge: int = 1) -> None:
  """Warns where a clip's arrays come near to the machine's memory.

  Raises:
    InputError: they are larger than it.
  """
  wanted, there = needed(size, frames, enlarge), of_machine()
  told = (f"{frames} frames of {size[1]}x{size[0]} pixels take {wanted / 2**30:,.1f} GiB for the "
          f"pictures alone, this machine has {there / 2**30:,.1f} GiB")
  if wanted > there:
    raise InputError(f"{told}. Set a smaller --config.sampling.height and --config.sampling.width "
                     "or --config.sampling.max_area, or less sound with --seconds.")
  if wanted > NEAR * there:
    logging.warning("%s: it may not be enough for the networks too.", told)
