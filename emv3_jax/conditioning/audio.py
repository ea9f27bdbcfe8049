"""From a recording to what the audio encoders read, and from their features to windows."""

import dataclasses
import math
import os
import warnings

from absl import logging
from jaxtyping import Float32
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io import downmix
from emv3_jax.io.audio_files import read_audio
from emv3_jax.io.resampling import resample

RATE = 16_000  # Hz, of both audio encoders
FPS = 25
LATENT_FRAMES = 4  # video frames a latent frame
TARGET_LUFS = -23.0
WINDOW = 5  # video frames an audio window of flash
LOUDEST = 2.0 ** 32  # sample, where full scale is 1; integers kept as floats reach 2^31, squares stay finite
CANCELLED = 0.01  # power of the mix, of that of the loudest channel


@dataclasses.dataclass(frozen=True)
class Voice:
  """A recording, ready for either variant.

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
  if round(seconds * FPS, 6) < LATENT_FRAMES:
    raise InputError(f"Audio {source} is too short: {seconds:.3f} s found, "
                     f"{LATENT_FRAMES / FPS:.2f} s needed (one latent frame: {LATENT_FRAMES} "
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


def _fit(samples: np.ndarray, length: int) -> np.ndarray:
  """Cuts or zero-pads at the end."""
  return np.pad(samples[:length], (0, max(length - len(samples), 0)))


def num_frames(seconds: float | int) -> int:
  """Video frames that cover `seconds`: ceil(25 seconds), to a millionth of a frame.

  The rounding keeps 4.04 s at 101 frames whichever way 4.04 was computed; it is far below the
  distance of two samples at any rate.
  """
  return math.ceil(round(seconds * FPS, 6))


def sample_frames(frames: int) -> int:
  """The next 4 k + 1 at or above `frames`: what is sampled; the surplus is dropped."""
  return frames + (1 - frames) % LATENT_FRAMES


def padded_samples(frames: int) -> int:
  """Samples of which wav2vec2 makes exactly two tokens a video frame.

  Its convolutions see 400 samples every 320: 2 F tokens begin at 400 + 320 (2 F - 1). The
  reference, which does not pad, comes out one token short and fails.
  """
  return 640 * frames + 80


def preview_waveform(samples: np.ndarray, frames: int, normalise: bool = True
                     ) -> Float32[np.ndarray, "samples"]:
  """Input of wav2vec2 for preview: whole clip to mean 0 and variance 1, then zeros up to length.

  Args:
    samples: float32 [n] at 16 kHz.
    frames: video frames F; wav2vec2 gives 2 F tokens.
    normalise: what the checkpoint's feature extractor says (`do_normalize`); else the samples are
      taken as they are.
  """
  if normalise:
    samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
  return _fit(samples.astype(np.float32), padded_samples(frames))


def flash_waveform(samples: np.ndarray, frames: int) -> Float32[np.ndarray, "samples"]:
  """Input of wav2vec2 for flash: whole clip at -23 LUFS, then cut or zero-padded to F / 25 s."""
  # Float arithmetic of the reference, a sample short for F = 201, 203, 402, ...
  return _fit(normalise_loudness(samples), int(frames / FPS * RATE))


def normalise_loudness(samples: np.ndarray) -> np.ndarray:
  """float32 [n] at 16 kHz scaled to -23 LUFS (ITU-R BS.1770), as the reference does it.

  Unchanged where a loudness has no meaning: silence and what lies beyond 100 LUFS either way,
  clips shorter than the meter's block of 0.4 s.
  """
  import pyloudnorm  # here, because it loads scipy.signal: a second that only flash needs

  meter = pyloudnorm.Meter(RATE)
  if len(samples) < meter.block_size * RATE:
    return samples
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # mean of no blocks, for silence
    loudness = meter.integrated_loudness(samples.astype(np.float64))
  if not abs(loudness) <= 100:
    return samples
  return (10 ** ((TARGET_LUFS - loudness) / 20) * samples).astype(np.float32)


def flash_windows(features: np.ndarray) -> Float32[np.ndarray, "F 5 layers channels"]:
  """Windows of five frames round each, repeating the first and the last frame at the ends.

  Args:
    features: float32 [F, layers, channels], wav2vec2's layers at one a video frame.
  """
  frames = len(features)
  around = np.arange(frames)[:, None] + np.arange(WINDOW) - WINDOW // 2
  return features[around.clip(0, frames - 1)]
