"""Downmix to two channels or one, with FFmpeg's default weights.

The weights preserve loudness, e.g. of a voice in the centre channel. FFmpeg scales them down for integer
samples; here samples are floats and may exceed 1 if all channels are loud at the same time.
"""

from collections.abc import Sequence

from jaxtyping import Float32
import numpy as np

_HALF = 0.5 ** 0.5  # gain that halves the power
# Weights for left, right and mono. Other channels (height, wide) are treated as surround.
_WEIGHTS = {
    "FL": (1.0, 0.0, _HALF), "FR": (0.0, 1.0, _HALF), "FC": (_HALF, _HALF, 1.0),
    "LFE": (0.0, 0.0, 0.0), "BL": (_HALF, 0.0, 0.5), "BR": (0.0, _HALF, 0.5),
    "SL": (_HALF, 0.0, 0.5), "SR": (0.0, _HALF, 0.5), "BC": (0.5, 0.5, 0.5)}
# Layout by number of channels, for files that do not name their channels.
_USUAL = {
    3: ("FL", "FR", "LFE"), 4: ("FL", "FR", "FC", "BC"), 5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"), 7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR")}


def to_stereo(samples: Float32[np.ndarray, "n channels"],
              names: Sequence[str] | None = None) -> Float32[np.ndarray, "n 2"]:
  """Mixes three channels or more to left and right.

  Args:
    samples: one column per channel.
    names: FFmpeg's names of the channels; None for the usual layout of that number.
  """
  return samples @ _matrix(samples.shape[1], names)[:, :2]


def to_mono(samples: Float32[np.ndarray, "n channels"]) -> Float32[np.ndarray, "n"]:
  """Mixes to one channel: the mean of two channels; more are mixed with the weights of the usual layout."""
  if samples.shape[1] < 3:
    return samples.mean(axis=1)
  return samples @ _matrix(samples.shape[1], None)[:, 2]


def is_usual(names: Sequence[str]) -> bool:
  """Returns whether channels of these names are mixed like the same number of channels without names."""
  usual = _USUAL.get(len(names))
  return usual is None or np.array_equal(_matrix(len(names), names), _matrix(len(names), None))


def _matrix(channels: int, names: Sequence[str] | None) -> Float32[np.ndarray, "channels 3"]:
  names = _USUAL.get(channels) if names is None else names
  if names is None:  # more than eight channels without names
    return np.full((channels, 3), 1 / channels, np.float32)
  return np.array([_WEIGHTS.get(name, (0.5, 0.5, 0.5)) for name in names], np.float32)
