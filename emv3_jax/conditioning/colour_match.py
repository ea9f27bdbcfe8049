"""Mean and spread of a video's colours, held at those of its first frame.

The released scripts do this, without telling, to every video that they write, in OpenCV's 8 bit Lab; here Lab is in
floating point. Reinhard et al., Color Transfer between Images, 2001.
"""

from jaxtyping import Float, Float32, UInt8
import numpy as np

# sRGB of D65 to XYZ, each row divided by the white of that axis.
_WHITE = np.array([0.950456, 1.0, 1.088754])
_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169],
                    [0.019334, 0.119193, 0.950227]]) / _WHITE[:, None]
_KNEE = 0.008856  # below it the cube root of CIE 1976 is replaced by a line


def matched(frames: UInt8[np.ndarray, "F H W 3"]) -> UInt8[np.ndarray, "F H W 3"]:
  """Gives every frame the mean and standard deviation of the first one, by channel of Lab.

  The first frame stays as it is.
  """
  mean, spread = statistics(to_lab(frames[0]))
  found = np.array(frames)
  for number in range(1, len(frames)):
    found[number] = transferred(frames[number], mean, spread)
  return found


def statistics(lab: Float[np.ndarray, "H W 3"]) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean and standard deviation of each channel."""
  return lab.mean(axis=(0, 1)), lab.std(axis=(0, 1))


def transferred(frame: UInt8[np.ndarray, "H W 3"], mean: np.ndarray, spread: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
  """Gives a frame these statistics; a channel without any spread gets the mean alone."""
  lab = to_lab(frame)
  own_mean, own_spread = statistics(lab)
  return to_rgb((lab - own_mean) * (spread / np.maximum(own_spread, 1e-6)) + mean)


def to_lab(rgb: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W 3"]:
  """Converts sRGB to CIE Lab, L in [0, 100]."""
  unit = rgb.astype(np.float32) / 255
  linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
  xyz = linear @ _TO_XYZ.T.astype(np.float32)
  f = np.where(xyz > _KNEE, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
  x, y, z = np.moveaxis(f, -1, 0)
  return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def to_rgb(lab: Float[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
  """Converts CIE Lab to sRGB, cut to [0, 255] and rounded."""
  lightness, a, b = np.moveaxis(lab, -1, 0)
  y = (lightness + 16) / 116
  f = np.stack([y + a / 500, y, y - b / 200], axis=-1)
  xyz = np.where(f > np.cbrt(_KNEE), f ** 3, (f - 16 / 116) / 7.787)
  linear = np.clip(xyz @ np.linalg.inv(_TO_XYZ).T.astype(np.float32), 0, 1)
  unit = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
  return np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)
