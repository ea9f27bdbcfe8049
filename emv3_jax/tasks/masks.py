"""Condition masks: which parts of a video are given, and the network's mask channels for them.

One input of 36 channels serves all tasks: 16 channels of the noisy latent, 4 of the mask, 16 of the
masked video's latent. A mask is 1 (True) where the video is given, 0 where it is generated.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32
import numpy as np

from emv3_jax import geometry
from emv3_jax.arrays import AnyArray
from emv3_jax.geometry import CHANNELS, FRAMES, PIXELS


def outside_mouth(mouth: Bool[np.ndarray, "*F H W"], frames: int) -> Bool[np.ndarray, "F H W"]:
  """Computes the condition mask of lip-sync: all pixels outside the mouth region are given.

  Args:
    mouth: bool [H, W] or [1, H, W], one region for all frames, or [F, H, W], one for each frame.
    frames: F.
  """
  return np.broadcast_to(~mouth.astype(bool), (frames, *mouth.shape[-2:]))


def masked_video(video: Float[np.ndarray, "F H W 3"], mask: Bool[np.ndarray, "F *size"]) -> Float32[np.ndarray, "F H W 3"]:
  """Replaces the pixels of `video` outside `mask` by mid grey.

  Args:
    video: [F, H, W, 3] in [-1, 1].
    mask: bool [F] or [F, H, W], True where the video is given.

  Returns:
    [F, H, W, 3], 0.0 where the mask is False.
  """
  mask = mask.reshape(mask.shape + (1,) * (video.ndim - mask.ndim))
  return np.where(mask, video, np.float32(0)).astype(np.float32)


def mask_latents(mask: Bool[np.ndarray, "F *size"], size: tuple[int, int]) -> Float32[np.ndarray, "f H8 W8 4"]:
  """Computes the four mask channels of the network's input.

  The channels of a latent frame stand for its four video frames; the first latent frame holds
  one video frame, which is repeated four times. A mask by pixel becomes a mask by latent cell: a cell is
  0 in all four channels as soon as one of its 8x8 pixels is False in one of its frames.

  Args:
    mask: bool [F], one value for each frame, or [F, H, W], one for each pixel; F = 4 k + 1.
    size: (H, W) of the video in pixels, multiples of 8.

  Raises:
    ValueError: F is not 4 k + 1, or the shapes do not fit.
  """
  height, width = size
  if not geometry.is_clip_length(mask.shape[0]) or height % PIXELS or width % PIXELS:
    raise ValueError(f"{mask.shape[0]} frames of {size}: expected 4 k + 1 frames of multiples "
                     f"of {PIXELS} pixels.")
  if mask.ndim == 3 and mask.shape[1:] != tuple(size):
    raise ValueError(f"A mask of shape {mask.shape} does not fit the size {size}.")
  grid = geometry.latent_size(size)
  grouped = np.concatenate([np.repeat(mask[:1], FRAMES - 1, axis=0), mask])
  grouped = grouped.reshape(-1, FRAMES, *mask.shape[1:])  # [f, 4] or [f, 4, H, W]
  if mask.ndim == 1:
    cells = grouped[:, None, None, :]
  else:
    cells = grouped.reshape(-1, FRAMES, grid[0], PIXELS, grid[1], PIXELS)
    cells = np.asarray(cells.all(axis=(1, 3, 5)))[..., None]
  return np.broadcast_to(cells, (len(grouped), *grid, FRAMES)).astype(np.float32)


def condition(mask: Float32[AnyArray, "*b f H8 W8 4"],
              masked_latents: Float[AnyArray, "*b f H8 W8 16"] | None = None
              ) -> Float32[AnyArray, "*b f H8 W8 20"]:
  """Concatenates the 20 condition channels: mask, then latents of the masked video. Runs under jit too.

  Where nothing is given (T2V, or the image dropped) the reference uses zeros for the masked latents,
  not the latents of a grey video.

  Args:
    mask: 1 where the video is given.
    masked_latents: mean latents, normalised; None stands for zeros.
  """
  # On the host there is nothing to compile.
  xp = jnp if isinstance(mask, jax.Array) or isinstance(masked_latents, jax.Array) else np
  if masked_latents is None:
    masked_latents = xp.zeros((*mask.shape[:-1], CHANNELS), np.float32)
  any_given = xp.any(mask > 0, axis=(-4, -3, -2, -1), keepdims=True)
  return xp.concatenate([mask, xp.where(any_given, masked_latents, xp.zeros_like(masked_latents))], axis=-1)
