"""From the decoder's numbers to bytes, larger pictures, and the released scripts' colour matching."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image

# Linear sRGB to XYZ, and the white point D65, with the digits that OpenCV has.
_XYZ = np.array([[0.412453, 0.357580, 0.180423],
                 [0.212671, 0.715160, 0.072169],
                 [0.019334, 0.119193, 0.950227]])
_WHITE = np.array([0.950456, 1.0, 1.088754])
# OpenCV converts bytes in fixed point: the steps of linear light, of the matrix, of the cube root.
_LIGHT_STEPS, _MATRIX_STEPS, _ROOT_STEPS = 2040, 2**12, 2**15


def to_uint8(video: Float[jax.Array | np.ndarray, "*shape"]) -> UInt8[jax.Array, "*shape"]:
  """Pixels in [-1, 1] to uint8: x / 2 + 0.5, clamped to [0, 1], times 255, truncated, as released.

  255 is therefore reached only at exactly 1. Pure; may be jitted.
  """
  unit = jnp.clip(jnp.asarray(video, jnp.float32) / 2 + 0.5, 0, 1)
  return (unit * 255).astype(jnp.uint8)


def enlarged(frames: UInt8[np.ndarray, "F H W 3"], factor: int) -> UInt8[np.ndarray, "F H2 W2 3"]:
  """Each frame `factor` times as high and wide, by Lanczos."""
  if factor == 1:
    return frames
  size = (factor * frames.shape[2], factor * frames.shape[1])
  return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
                   for frame in frames])


def match_colour(frames: UInt8[np.ndarray, "F H W 3"],
                 reference: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "F H W 3"]:
  """Gives each frame the mean and the spread of `reference` in each channel of CIE Lab.

  The released scripts do this to every frame but the first, with the first as reference, on
  OpenCV's Lab in bytes. It hides slow colour drift, and also any wanted change of light; therefore
  it is opt-in here.
  """
  wanted_mean, wanted_std = _moments(_to_lab(reference))
  matched = np.empty_like(frames)
  for i, frame in enumerate(frames):
    lab = _to_lab(frame)
    mean, std = _moments(lab)
    gain = np.divide(wanted_std, std, out=np.ones(3), where=std > 0)  # a flat channel only moves
    matched[i] = _to_rgb(np.rint(np.clip((lab - mean) * gain + wanted_mean, 0, 255)))
  return matched


def _moments(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation of each channel, to two decimals as released."""
  return lab.mean((0, 1)).round(2), lab.std((0, 1)).round(2)


def _to_lab(rgb: np.ndarray) -> np.ndarray:
  """float64 [H, W, 3], whole numbers: L 255 / 100, a + 128, b + 128.

  OpenCV's fixed point and its factor 296 for 295.8 are kept: without them one L in seven would be
  a level off.
  """
  unit = rgb / 255
  linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
  matrix = np.rint(_MATRIX_STEPS * _XYZ / _WHITE[:, None]) / _MATRIX_STEPS
  xyz = np.floor(np.rint(linear * _LIGHT_STEPS) @ matrix.T + 0.5) / _LIGHT_STEPS
  f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
  f = np.rint(f * _ROOT_STEPS) / _ROOT_STEPS
  fx, fy, fz = np.moveaxis(f, -1, 0)
  lab = np.stack([296 * fy - 40.8, 500 * (fx - fy) + 128, 200 * (fy - fz) + 128], -1)
  return np.rint(np.clip(lab, 0, 255))


def _to_rgb(lab: np.ndarray) -> np.ndarray:
  """Inverse of `_to_lab`, to whole numbers in [0, 255]; colours outside sRGB are clamped."""
  fy = (lab[..., 0] * 100 / 255 + 16) / 116
  f = np.stack([fy + (lab[..., 1] - 128) / 500, fy, fy - (lab[..., 2] - 128) / 200], -1)
  xyz = np.where(f > 6 / 29, f**3, (f - 16 / 116) / 7.787) * _WHITE
  linear = np.clip(xyz @ np.linalg.inv(_XYZ).T, 0, 1)
  unit = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
  return np.rint(unit * 255)
