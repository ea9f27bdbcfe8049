"""Sentences as the audio encoder's training hears them, varied, with what there is to find out."""

import functools

import numpy as np
import soxr

from emv3_jax.geometry import RATE
from emv3_jax.puppets import world
from emv3_jax.puppets.training.settings import AudioSettings, Phase
from emv3_jax.puppets.world.sentences import SAMPLES_PER_FRAME, sentences, speech
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
  level = settings.hiss * rng.random() ** 3 * world.voice.SPEECH_LEVEL
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
  sound = soxr.resample(sound, RATE * pace, RATE).astype(np.float32)
  spectrum = np.fft.rfft(sound)
  octaves = np.log2(np.maximum(np.fft.rfftfreq(len(sound), 1 / RATE), 50) / 1000)
  slope = settings.tilt * rng.uniform(-1, 1)
  sound = np.fft.irfft(spectrum * 10 ** (slope * octaves / 20), len(sound)).astype(np.float32)
  sound = world.level(sound, RATE)
  return np.pad(sound, (0, -len(sound) % SAMPLES_PER_FRAME))


def log_mel(samples: np.ndarray, bands: int) -> np.ndarray:
  """log(power + floor) of mel bands in 40 ms about each token: [tokens, bands] float32."""
  tokens = len(samples) // _HOP
  padded = np.pad(samples, (_WINDOW - _HOP) // 2)
  pieces = padded[np.arange(tokens)[:, None] * _HOP + np.arange(_WINDOW)] * np.hanning(_WINDOW)
  power = np.abs(np.fft.rfft(pieces)) ** 2 / _WINDOW
  return np.log(power @ _bands(bands) + _FLOOR).astype(np.float32)


@functools.cache
def _bands(count: int) -> np.ndarray:
  """Triangles, equal steps on the mel scale from 80 to 7600 Hz: [pitches, count]."""
  mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)
  edges = 700 * (10 ** (np.linspace(mel(80), mel(7600), count + 2) / 2595) - 1)
  pitch = np.fft.rfftfreq(_WINDOW, 1 / RATE)[:, None]
  rise = (pitch - edges[:-2]) / (edges[1:-1] - edges[:-2])
  fall = (edges[2:] - pitch) / (edges[2:] - edges[1:-1])
  triangles = np.clip(np.minimum(rise, fall), 0, None)
  return triangles / np.maximum(triangles.sum(0), 1e-9)
