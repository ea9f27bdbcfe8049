"""Resampling of sound by librosa with soxr in high quality, as in `librosa.load`."""

from jaxtyping import Float
import numpy as np


def resample(samples: Float[np.ndarray, "n *channels"], rate: float, to: float, *,
             fit: bool = False) -> Float[np.ndarray, "n2 *channels"]:
  """Resamples sound to another rate.

  Args:
    samples: float [n] or [n, channels], finite.
    rate, to: samples a second, before and after.
    fit: whether to cut or zero-pad to ceil(n * to / rate) samples; otherwise soxr decides their number.

  Returns:
    Samples of the same dtype; `samples` itself if the rates are equal.
  """
  if rate == to:
    return samples
  import librosa  # imported here: takes more than a second, and only sound at other rates needs it

  return librosa.resample(samples, orig_sr=rate, target_sr=to, res_type="soxr_hq", fix=fit, axis=0)
