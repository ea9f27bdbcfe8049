"""Resampling of sound by librosa with soxr in high quality, as in `librosa.load`."""

from jaxtyping import Float
import numpy as np


def resample(samples: Float[np.ndarray, "n *channels"], rate: float, to: float, *,
             fit: bool = False) -> Float[np.ndarray, "n2 *channels"]:
  """Resamples sound to another rate.

  Args:
    samples: float [n] or [n, channels], finite.
    rate, to: samples a second, before and after.
    fit: cut or zero-pad to ceil(n * to / rate) samples; else as many as soxr gives.

  Returns:
    Samples of the same dtype, the very same where the rates agree.
  """
  if rate == to:
    return samples
  import librosa  # here: more than a second, for sound at other rates alone

  return librosa.resample(samples, orig_sr=rate, target_sr=to, res_type="soxr_hq", fix=fit, axis=0)
