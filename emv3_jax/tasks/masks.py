"""What is known of a video, and the network's mask channels that say so.

One 36-channel input serves all tasks: 16 channels of noisy latent, 4 of mask, 16 of the masked
video's latent. 1 means known.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32
import numpy as np

from emv3_jax import geometry
from emv3_jax.arrays import AnyArray
from emv3_jax.geometry import CHANNELS, FRAMES, PIXELS


def known_pixels(mouth: Bool[np.ndarray, "*F H W"], frames: int) -> Bool[np.ndarray, "F H W"]:
  """Lip-sync: everything but the mouth region is known, in every frame.

  Args:
    mouth: bool [H, W], the region in all frames, or [F, H, W], one for each.
  """
  return np.broadcast_to(~mouth.astype(bool), (frames, *mouth.shape[-2:]))


def masked_video(video: Float[np.ndarray, "F H W 3"], known: Bool[np.ndarray, "F *size"]) -> Float32[np.ndarray, "F H W 3"]:
  """Pixels in [-1, 1] where known ([F] or [F, H, W]), 0.0 (mid grey) elsewhere."""
  known = known.reshape(known.shape + (1,) * (video.ndim - known.ndim))
  return np.where(known, video, np.float32(0)).astype(np.float32)


def mask_latents(known: np.ndarray, size: tuple[int, int]) -> Float32[np.ndarray, "f H8 W8 4"]:
  """The four mask channels, 1 where known.

  The channels of a latent frame stand for its four video frames; the first latent frame holds
  one video frame, which is repeated four times. A mask by pixels becomes one by cells: a cell is
  unknown in all four channels as soon as one of its 8x8 pixels is unknown in one of its frames.

  Args:
    known: bool [F], known frames, or [F, H, W], known pixels; F = 4 k + 1.
    size: (H, W) of the video in pixels, multiples of 8.

  Raises:
    ValueError: F is not 4 k + 1, or the shapes do not fit.
  """
  height, width = size
  if not geometry.is_clip_length(known.shape[0]) or height % PIXELS or width % PIXELS:
    raise ValueError(f"{known.shape[0]} frames of {size}: expected 4 k + 1 frames of multiples "
                     f"of {PIXELS} pixels.")
  if known.ndim == 3 and known.shape[1:] != tuple(size):
    raise ValueError(f"Known pixels {known.shape} do not fit the size {size}.")
  grid = geometry.latent_size(size)
  grouped = np.concatenate([np.repeat(known[:1], FRAMES - 1, axis=0), known])
  grouped = grouped.reshape(-1, FRAMES, *known.shape[1:])  # [f, 4] or [f, 4, H, W]
  if known.ndim == 1:
    cells = grouped[:, None, None, :]
  else:
    cells = grouped.reshape(-1, FRAMES, grid[0], PIXELS, grid[1], PIXELS)
    cells = np.asarray(cells.all(axis=(1, 3, 5)))[..., None]
  return np.broadcast_to(cells, (len(grouped), *grid, FRAMES)).astype(np.float32)


def condition(mask: Float32[AnyArray, "*b f H8 W8 4"],
              masked_latents: Float[AnyArray, "*b f H8 W8 16"] | None = None
              ) -> Float32[jax.Array, "*b f H8 W8 20"]:
  """The 20 condition channels: mask, then latents of the masked video. Runs under jit too.

  Where nothing at all is known (T2V, or the image dropped) the reference puts zeros for the
  masked latents, not the latents of a grey video.

  Args:
    mask: 1 where known.
    masked_latents: normalised mean latents; None stands for zeros.
  """
  if masked_latents is None:
    masked_latents = jnp.zeros((*mask.shape[:-1], CHANNELS))
  something_known = jnp.any(mask > 0, axis=(-4, -3, -2, -1), keepdims=True)
  return jnp.concatenate([mask, jnp.where(something_known, masked_latents, 0)], axis=-1)
