"""Conversion of a recording to one channel at 16 kHz, the rate of the audio encoders."""

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

MAX_AMPLITUDE = 2.0 ** 32  # full scale is 1; unscaled integers reach 2^31, and squares stay finite
CANCELLATION_RATIO = 0.01  # power of the mix, relative to the loudest channel


@dataclasses.dataclass(frozen=True)
class Voice:
  """A recording with one channel, for any variant.

  Attributes:
    samples: float32 [n] at 16 kHz, one channel.
    seconds: length of the recording at its own rate (resampling rounds up to a whole sample, which
      must not change the number of video frames).
  """

  samples: np.ndarray
  seconds: float


def load_voice(path: str | os.PathLike) -> Voice:
  """Reads a sound or video file and converts it by `to_voice`.

  Raises:
    InputError: cannot be read (see `read_audio`), or cannot be used (see `to_voice`).
  """
  return to_voice(*read_audio(path), path)


def to_voice(samples: Float32[np.ndarray, "n channels"], rate: int,
             source: str | os.PathLike) -> Voice:
  """Mixes a recording to one channel and resamples it to 16 kHz.

  Two channels are averaged; more channels are mixed by the usual downmix. If the channels cancel each
  other, for example after wrong wiring, the loudest channel is used and a warning is logged. The samples
  are those of `librosa.load(path, sr=16000)`, which the reference uses: soxr in high quality, cut or
  zero-padded to ceil(n * 16000 / rate) samples.

  Args:
    samples: as read, at `rate` Hz.
    rate: samples per second.
    source: name of the recording in messages.

  Raises:
    InputError: samples are not finite or far beyond full scale, or the recording is shorter than one
      latent frame (four video frames). Silence is accepted.
  """
  finite = np.isfinite(samples).all(axis=1)
  if not finite.all():
    raise InputError(f"Audio {source} holds {np.count_nonzero(~finite)} samples that are NaN or "
                     f"infinite, the first at {np.argmin(finite) / rate:.3f} s; export it again.")
  loudest = np.abs(samples).max(initial=0)
  if loudest > MAX_AMPLITUDE:
    raise InputError(f"Audio {source} has samples up to {loudest:.3g}, while full scale is 1; the file is damaged, "
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
  if samples.shape[1] == 1 or np.square(mono).mean() >= CANCELLATION_RATIO * power.max():
    return mono
  loudest = int(power.argmax())
  logging.warning("%s: its channels cancel each other; only channel %d of %d is used.", source,
                  loudest + 1, len(power))
  return samples[:, loudest]


def num_frames(seconds: float | int) -> int:
  """Returns the number of video frames that cover `seconds`: ceil(25 seconds), rounded to 1e-6 frames.

  The rounding gives 101 frames for 4.04 s independent of how 4.04 was computed; it is far below the
  distance of two samples at any rate.
  """
  return math.ceil(round(seconds * FPS, 6))
