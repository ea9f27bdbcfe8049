"""The flash variant: all layers of wav2vec2, one feature per video frame, in windows of five frames; no
face mask, guidance by audio only, few steps."""

import warnings

from jaxtyping import Float32
import numpy as np

from emv3_jax.geometry import FPS, RATE
from emv3_jax.variants.preview import CACHE, RELEASED_SETTINGS
from emv3_jax.variants.variant import Variant

TARGET_LUFS = -23.0
WINDOW = 5  # video frames
_CONTEXT = WINDOW // 2

# By audio alone, which is what the released text scale of 6 stands for.
_GUIDED = dict(text_scale=1.0, audio_scale=3.0, dynamic_audio=False, released_switch=False, guidance_until=1.0, png="off",
               solver="unipc", shift=5.0, solver_shift=1.0)


def normalise_loudness(samples: Float32[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
  """Scales samples at 16 kHz to -23 LUFS (ITU-R BS.1770), as the reference does.

  Samples without a meaningful loudness stay unchanged: silence, a loudness beyond 100 LUFS in absolute
  value, and clips shorter than the meter's block of 0.4 s.
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


def num_samples(frames: int) -> int:
  """Returns the number of samples of F / 25 s at 16 kHz."""
  return int(frames / FPS * RATE)  # the reference's arithmetic: one sample less for F = 201, 203, 402, ...


def windows(features: Float32[np.ndarray, "F layers channels"]
            ) -> Float32[np.ndarray, "F 5 layers channels"]:
  """Makes the window of five frames around each frame; the first and last frame are repeated at the ends.

  Args:
    features: hidden states of wav2vec2, one per video frame.
  """
  frames = len(features)
  around = np.arange(frames)[:, None] + np.arange(WINDOW) - _CONTEXT
  return features[around.clip(0, frames - 1)]


FLASH = Variant(
    name="flash", normalise=normalise_loudness, num_samples=num_samples,
    encoder_options=lambda frames: {"frames": frames, "layers": "all"}, features_per_frame=1,
    guidance="audio", face_mask=False, context=_CONTEXT, windows=windows,
    condition_fields=("audio_layers",),
    settings=RELEASED_SETTINGS | dict(
        solver="unipc", steps=8, solver_shift=1.0, text_scale=6.0, audio_scale=3.0,
        dynamic_text=False, dynamic_audio=False, neg_scale=1.0, neg_steps=-1, negative_prompt="",
        max_frames=81),
    presets={"head": dict(steps=5, **_GUIDED), "human": dict(steps=25, cache=CACHE, **_GUIDED)})
