"""Portraits and source frames: sampling size, resizing, pixels for the VAE and the CLIP image encoder."""

import math

from jaxtyping import Float32
import numpy as np
from PIL import Image

from emv3_jax.errors import InputError
from emv3_jax.geometry import TOKEN

CLIP_VISION_SIDE = 224
CLIP_VISION_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_VISION_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def sample_size(height: int, width: int, max_area: int = 768 * 768) -> tuple[int, int]:
  """Computes the sampled height and width: multiples of 16, about the same aspect ratio, never larger.

  An image of more than `max_area` pixels is reduced to about that area; then both sides are
  rounded down to multiples of 16 (one transformer token).

  Raises:
    InputError: a side would become shorter than 16 pixels.
  """
  shrink = max(math.sqrt(height * width / max_area), 1.0)
  size = int(height / shrink // TOKEN * TOKEN), int(width / shrink // TOKEN * TOKEN)
  if min(size) < TOKEN:
    raise InputError(f"An image of {width}x{height} pixels cannot be sampled at {max_area} pixels: "
                     f"its shorter side would have less than {TOKEN}; crop it.")
  return size


def is_sample_size(height: int, width: int, size: tuple[int, int]) -> bool:
  """Returns whether `sample_size` gives `size` for such an image with some `max_area`."""
  sides = list(zip((height, width), size, strict=True))
  largest = min(side / target for side, target in sides)  # possible scale factor
  return largest >= 1 and all(side / (target + TOKEN) < largest for side, target in sides)


def resize_lanczos(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes uint8 [H, W, 3] or [F, H, W, 3] to `size` = (height, width) as the reference does.

  Uses PIL's Lanczos filter, without keeping the aspect ratio and without cropping.
  """
  if image.ndim == 4:
    return np.stack([resize_lanczos(frame, size) for frame in image])
  height, width = size
  return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def to_pixels(image: np.ndarray) -> np.ndarray:
  """Converts uint8 [..., 3] to float32 in [-1, 1], rounded as in the reference: 2 (u / 255) - 1."""
  return image.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)


def clip_vision_pixels(image: np.ndarray) -> Float32[np.ndarray, "224 224 3"]:
  """Computes the input of the CLIP image encoder.

  As in the reference, the whole image is resized to 224x224 by bicubic interpolation with a = -0.75,
  half-pixel centres, repeated edge pixels, without antialiasing and without clamping of the overshoot;
  then it is normalised by CLIP's mean and standard deviation.

  Args:
    image: uint8 [H, W, 3], or float pixels in [-1, 1] of the same shape (a masked frame).
  """
  unit = image / 255.0 if image.dtype == np.uint8 else image * 0.5 + 0.5
  rows, columns = (_cubic_matrix(side, CLIP_VISION_SIDE) for side in image.shape[:2])
  unit = np.einsum("yh,hwc,xw->yxc", rows, unit, columns, optimize=True)
  return ((unit - CLIP_VISION_MEAN) / CLIP_VISION_STD).astype(np.float32)


def _cubic_matrix(size_in: int, size_out: int, a: float = -0.75) -> np.ndarray:
  """Computes the weights of Keys' cubic kernel, [size_out, size_in], with four neighbours for each output."""
  # Positions in float32, as in PyTorch: at 400 pixels their error is 1e-5.
  centre = np.float32(size_in / size_out) * (np.arange(size_out, dtype=np.float32) + 0.5) - 0.5
  neighbours = np.floor(centre)[:, None].astype(int) + np.arange(-1, 3)
  x = np.abs(centre[:, None] - neighbours)
  near = ((a + 2) * x - (a + 3)) * x * x + 1  # |x| <= 1
  far = ((x - 5) * x + 8) * x * a - 4 * a  # 1 < |x| < 2
  matrix = np.zeros((size_out, size_in))
  row = np.arange(size_out)[:, None]
  np.add.at(matrix, (row, neighbours.clip(0, size_in - 1)), np.where(x <= 1, near, far))
  return matrix
