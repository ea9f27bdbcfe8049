"""How near a video is to another of the same scene: peak signal-to-noise ratio and structural similarity."""

from jaxtyping import UInt8
import numpy as np
from scipy import ndimage

from emv3_jax.metrics.frame_curves import LUMA

_PEAK = 255.0
_SIGMA, _TRUNCATE = 1.5, 3.5  # a Gaussian window of 11 pixels, as in the paper of SSIM (Wang et al., 2004)
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


def psnr(video: UInt8[np.ndarray, "F H W 3"], reference: UInt8[np.ndarray, "F H W 3"]) -> float:
  """Returns the peak signal-to-noise ratio in dB over all frames; infinity for equal videos."""
  error = np.mean([np.square(np.float64(a) - b).mean() for a, b in zip(video, reference, strict=True)])
  return float(np.inf if error == 0 else 10 * np.log10(_PEAK ** 2 / error))


def ssim(video: UInt8[np.ndarray, "F H W 3"], reference: UInt8[np.ndarray, "F H W 3"]) -> float:
  """Returns the structural similarity of the luminance, at most 1, mean over all pixels and frames."""
  return float(np.mean([_ssim(np.float64(a) @ LUMA, np.float64(b) @ LUMA) for a, b in zip(video, reference, strict=True)]))


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
  mean = lambda values: ndimage.gaussian_filter(values, _SIGMA, truncate=_TRUNCATE)
  x_mean, y_mean = mean(x), mean(y)
  x_var, y_var, both = mean(x * x) - x_mean ** 2, mean(y * y) - y_mean ** 2, mean(x * y) - x_mean * y_mean
  similarity = ((2 * x_mean * y_mean + _C1) * (2 * both + _C2)
                / ((x_mean ** 2 + y_mean ** 2 + _C1) * (x_var + y_var + _C2)))
  return similarity.mean()
