"""From a recording to one channel at the rate of the audio encoders."""

import dataclasses
import math
import os

from absl import logging
from jaxtyping import Float32
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS, FRAMES, RATE
from emv3_jax.io import downmix
from emv3_jax.io.audio_files import read_audio
from emv3_jax.io.resampling import resample

LOUDEST = 2.0 ** 32  # sample, where full scale is 1; integers kept as floats reach 2^31, squares stay finite
CANCELLED = 0.01  # power of the mix, of that of the loudest channel


@dataclasses.dataclass(frozen=True)
class Voice:
  """A recording, ready for any variant.

  Attributes:
    samples: float32 [n] at 16 kHz, one channel.
    seconds: length of the recording in its own samples (resampling rounds up to a whole sample,
      which must not cost a video frame).
  """

  samples: np.ndarray
  seconds: float


def load_voice(path: str | os.PathLike) -> Voice:
  """Reads a sound or video file as `to_voice` does with its samples.

  Raises:
    InputError: cannot be read (see `read_audio`), or cannot be used (see `to_voice`).
  """
  return to_voice(*read_audio(path), path)


def to_voice(samples: Float32[np.ndarray, "n channels"], rate: int,
             source: str | os.PathLike) -> Voice:
  """One channel, resampled to 16 kHz: the mean of two, the usual downmix of more.

  Where they cancel each other, as of a plug that is wired wrongly, the loudest one is used and told.
  The samples are those of `librosa.load(path, sr=16000)`, which the reference uses: soxr in high
  quality, cut or zero-padded to ceil(n * 16000 / rate) samples.

  Args:
    samples: as read, at `rate` Hz.
    source: what messages call the recording.

  Raises:
    InputError: samples that are not finite or beyond all scales, or fewer than one latent frame (four video frames)
      takes. Silence is fine.
  """
  finite = np.isfinite(samples).all(axis=1)
  if not finite.all():
    raise InputError(f"Audio {source} holds {np.count_nonzero(~finite)} samples that are NaN or "
                     f"infinite, the first at {np.argmin(finite) / rate:.3f} s; export it again.")
  loudest = np.abs(samples).max(initial=0)
  if loudest > LOUDEST:
    raise InputError(f"Audio {source} has samples up to {loudest:.3g}, where full scale is 1; it is damaged, or "
                     "export it again.")
  seconds = len(samples) / rate
  if round(seconds * FPS, 6) < FRAMES:
    raise InputError(f"Audio {source} is too short: {seconds:.3f} s found, "
                     f"{FRAMES / FPS:.2f} s needed (one latent frame: {FRAMES} "
                     f"frames at {FPS} a second).")
  return Voice(resample(_one_channel(samples, source), rate, RATE, fit=True), seconds)


def _one_channel(samples: np.ndarray, source: str | os.PathLike) -> np.ndarray:
  mono = downmix.to_mono(samples)
  power = np.square(samples, dtype=np.float32).mean(axis=0)
  if samples.shape[1] == 1 or np.square(mono).mean() >= CANCELLED * power.max():
    return mono
  loudest = int(power.argmax())
  logging.warning("%s: its channels cancel each other; channel %d of %d is used alone.", source,
                  loudest + 1, len(power))
  return samples[:, loudest]


def num_frames(seconds: float | int) -> int:
  """Video frames that cover `seconds`: ceil(25 seconds), to a millionth of a frame.

  The rounding keeps 4.04 s at 101 frames whichever way 4.04 was computed; it is far below the
  distance of two samples at any rate.
  """
  return math.ceil(round(seconds * FPS, 6))
