"""Checks that the arrays of a clip fit into this machine's memory, before they are allocated."""

import math

from absl import logging

from emv3_jax import geometry
from emv3_jax.errors import InputError
from emv3_jax.runtime.machine import memory as machine_memory

WARN_SHARE = 0.5  # of the machine's memory; larger clips are logged as a warning
# Bytes for each pixel of each frame that are in memory at once: float32 input of a window (3 channels), uint8
# pictures that the request gives, uint8 decoded frames.
_IN, _GIVEN, _OUT = 12, 3, 3
# A latent cell, float32: latents, and mask and masked-video latents.
_LATENT = 4 * (geometry.CHANNELS + geometry.FRAMES + geometry.CHANNELS)


def needed(size: tuple[int, int], frames: int, enlarge: int = 1, *, window: int | None = None, given: int = 0) -> int:
  """Computes the bytes of the inputs, latents and frames of a clip, without the networks and their activations.

  Args:
    size: sampled size (H, W) in pixels.
    frames: number of sampled frames, 4k + 1.
    enlarge: factor by which the written pictures are larger.
    window: frames of a window, of which a longer clip has one at a time in memory; None stands for `frames`.
    given: number of frames that the request gives.
  """
  pixels = size[0] * size[1]
  at_once = frames if window is None else min(window, frames)
  cells = math.prod(geometry.latent_size(size)) * geometry.latent_frames(geometry.sample_frames(frames))
  written = _OUT * enlarge ** 2 if enlarge > 1 else 0
  return pixels * (at_once * _IN + given * _GIVEN + frames * (_OUT + written)) + cells * _LATENT


def check(size: tuple[int, int], frames: int, enlarge: int = 1, *, window: int | None = None, given: int = 0) -> None:
  """Logs a warning if a clip's arrays take more than half of the machine's memory; arguments as in `needed`.

  Raises:
    InputError: they do not fit into it.
  """
  required, available = needed(size, frames, enlarge, window=window, given=given), machine_memory()
  message = (f"{frames} frames of {size[1]}x{size[0]} pixels take {required / 2**30:,.1f} GiB for the "
             f"pictures alone, this machine has {available / 2**30:,.1f} GiB")
  if required > available:
    raise InputError(f"{message}. Set a smaller --config.sampling.height and --config.sampling.width "
                     "or --config.sampling.max_area, or less sound with --seconds.")
  if required > WARN_SHARE * available:
    logging.warning("%s: it may not be enough for the networks too.", message)
