"""From the sound of a voice to how far a mouth opens.

`mouth_curve` is this world's law: it is what a model has to find out from sound and pictures.
"""

import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS

SPEECH_LEVEL = 0.12  # `level` makes a tenth of a recording's levels exceed this

_HOP = 100  # levels a second: four a video frame
_WINDOW = 0.04  # seconds of sound behind a level
_BAND = (200.0, 3000.0)  # Hz: voiced sounds count, hissing ones hardly
_SHUT, _OPEN = 0.015, 0.11  # levels at which the mouth is shut and wide open
_BEND = 0.7
# Seconds in which a gap shrinks to 1/e. Slow enough that the mean over the four frames of a latent
# tells nearly all: the transformer hears 17 tokens a latent and cannot tell which came first.
_ATTACK, _DECAY = 0.12, 0.2


def band_levels(samples: np.ndarray, rate: int, times: np.ndarray) -> np.ndarray:
  """Root mean square of 200 to 3000 Hz in 40 ms windows centred at `times` seconds: [n] float64.

  Sound before the beginning and after the end is silence.
  """
  length = round(_WINDOW * rate)
  window = np.hanning(length + 2)[1:-1]
  padded = np.pad(np.asarray(samples, np.float64), length)
  starts = np.clip(np.rint(times * rate).astype(int) + length - length // 2, 0,
                   len(padded) - length)
  pieces = padded[starts[:, None] + np.arange(length)] * window
  power = np.abs(np.fft.rfft(pieces)) ** 2
  pitch = np.fft.rfftfreq(length, 1 / rate)
  inside = (pitch >= _BAND[0]) & (pitch <= _BAND[1])
  return np.sqrt(2 * power[:, inside].sum(1) / (length * (window**2).sum()))


def level(samples: np.ndarray, rate: int) -> np.ndarray:
  """The recording [n], made as loud as the voices of this world: float32.

  Its 90th percentile of `band_levels` becomes `SPEECH_LEVEL`. Silence stays silence.
  """
  times = (np.arange(len(samples) * _HOP // rate) + 0.5) / _HOP
  loud = np.quantile(band_levels(samples, rate, times), 0.9) if len(times) else 0.0
  gain = SPEECH_LEVEL / loud if loud > 1e-6 else 1.0
  return (np.asarray(samples) * gain).astype(np.float32)


def mouth_curve(samples: np.ndarray, rate: int, frames: int) -> np.ndarray:
  """How far a mouth is open in each video frame: [frames] float32 in [0, 1], silence = 0.

  A hundred times a second the level l of the band 200 to 3000 Hz is taken over 40 ms and becomes
  a target g = clip((l - 0.015) / (0.11 - 0.015), 0, 1) ** 0.7. The mouth follows, quicker to open
  (time = 120 ms) than to shut (200 ms): o += (g - o) (1 - exp(-10 ms / time)). Frame i shows the
  mean of o over i/25 .. (i+1)/25 seconds; what is below 0.04 shows as 0. Levels are absolute:
  bring a recording to the loudness of this world with `level` first.

  Args:
    samples: [n] float in [-1, 1], one channel.
    rate: samples a second.
    frames: how many video frames to cover; sound may be shorter (silence) or longer (ignored).

  Raises:
    InputError: `samples` is not one channel.
  """
  samples = np.asarray(samples)
  if samples.ndim != 1:
    raise InputError(f"a mouth needs one channel of sound: got {samples.shape}, wanted [samples]; "
                     "average the channels first")
  times = (np.arange(frames * _HOP // FPS) + 0.5) / _HOP
  levels = band_levels(samples, rate, times)
  targets = np.clip((levels - _SHUT) / (_OPEN - _SHUT), 0, 1) ** _BEND
  rise, fall = 1 - np.exp(-1 / (_HOP * _ATTACK)), 1 - np.exp(-1 / (_HOP * _DECAY))
  opening, track = 0.0, np.empty_like(targets)
  for i, target in enumerate(targets):
    opening += (target - opening) * (rise if target > opening else fall)
    track[i] = opening
  curve = track.reshape(frames, -1).mean(1)
  return np.where(curve < 0.04, 0, curve).astype(np.float32)
