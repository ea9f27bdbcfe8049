"""Sentences as the audio encoder's training hears them, varied, with what there is to find out."""

import functools

import librosa
import numpy as np

from emv3_jax.geometry import RATE
from emv3_jax.io.resampling import resample
from emv3_jax.puppets import world
from emv3_jax.puppets.training.settings import AudioSettings, Phase
from emv3_jax.puppets.world.sentences import SAMPLES_PER_FRAME, sentences, speech
from emv3_jax.puppets.world.voice import SPEECH_LEVEL
from emv3_jax.variants.preview import PREVIEW

_HOP = SAMPLES_PER_FRAME // 2  # samples a token: two tokens a video frame
_WINDOW = 640  # samples behind a spectrum
_FLOOR = 1e-5  # power below which a band is silent


def batch(settings: AudioSettings, phase: Phase, step: int) -> dict:
  """What a step is trained on; depends on (settings.seed, step) alone.

  Returns:
    waveform [b, samples] as sampling prepares it for the encoder; opening [b, F] of the mouth;
    mel [b, 2F, bands], the natural logarithm of the bands' power.
  """
  drawn = [_draw(settings, phase.frames, np.random.default_rng((settings.seed, step, example)))
           for example in range(phase.batch)]
  return {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}


def _draw(settings: AudioSettings, frames: int, rng: np.random.Generator) -> dict:
  """A window of sentences with pauses between them; the opening is that of the whole sound."""
  pieces, total = [], 0
  while total < 2 * frames:
    spoken = _varied(settings, int(rng.integers(len(sentences("train")))),
                     int(rng.integers(settings.variants)))
    pause = int(rng.exponential(8)) + int(rng.integers(3))
    pieces += [spoken, np.zeros(pause * SAMPLES_PER_FRAME, np.float32)]
    total += len(spoken) // SAMPLES_PER_FRAME + pause
  sound = np.concatenate(pieces)
  opening = world.mouth_curve(sound, RATE, total)
  start = int(rng.integers(-12, total - frames + 1))
  before = max(0, -start)
  sound = np.pad(sound, (before * SAMPLES_PER_FRAME, 0))
  opening = np.pad(opening, (before, 0))
  first = start + before
  samples = sound[first * SAMPLES_PER_FRAME:(first + frames) * SAMPLES_PER_FRAME]
  level = settings.hiss * rng.random() ** 3 * SPEECH_LEVEL
  mel = log_mel(samples, settings.bands)
  noisy = samples + level * rng.standard_normal(len(samples), np.float32)
  return {"waveform": PREVIEW.waveform(noisy.astype(np.float32), frames),
          "opening": opening[first:first + frames], "mel": mel}


@functools.cache
def _varied(settings: AudioSettings, number: int, variant: int) -> np.ndarray:
  """A training sentence at another pace and through a filter, levelled, in whole frames."""
  rng = np.random.default_rng((settings.seed, number, variant))
  sound = speech(sentences("train")[number].name)
  pace = 1 + settings.pace * rng.uniform(-1, 1)
  sound = resample(sound, RATE * pace, RATE).astype(np.float32)
  spectrum = np.fft.rfft(sound)
  octaves = np.log2(np.maximum(np.fft.rfftfreq(len(sound), 1 / RATE), 50) / 1000)
  slope = settings.tilt * rng.uniform(-1, 1)
  sound = np.fft.irfft(spectrum * 10 ** (slope * octaves / 20), len(sound)).astype(np.float32)
  sound = world.level(sound, RATE)
  return np.pad(sound, (0, -len(sound) % SAMPLES_PER_FRAME))


def log_mel(samples: np.ndarray, bands: int) -> np.ndarray:
  """log(power + floor) of mel bands in 40 ms about each token: [tokens, bands] float32.

  The bands are triangles of area 1, equal steps on HTK's mel scale from 80 to 7600 Hz.
  """
  padded = np.pad(samples, (_WINDOW - _HOP) // 2).astype(np.float64)
  power = librosa.feature.melspectrogram(
      y=padded, sr=RATE, n_fft=_WINDOW, hop_length=_HOP, window=np.hanning(_WINDOW), center=False,
      n_mels=bands, fmin=80, fmax=7600, htk=True, norm=1, dtype=np.float64)
  return np.log(power.T / _WINDOW + _FLOOR).astype(np.float32)
