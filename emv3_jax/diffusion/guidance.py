"""Classifier-free guidance by text and audio: which network branches run, and how they are mixed.

    velocity = un + g (text - un) + g_a (full - text)

un is conditioned on neither prompt nor voice, text on the prompt alone, full on both. The released
flash model guides by audio alone: velocity = text + g_a (full - text).
"""

import dataclasses
import math
from typing import NamedTuple

from jaxtyping import Float, Float32
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.errors import InputError

MODES = ("text_audio", "audio")
Scale = float | np.floating | Float[AnyArray, ""]


class Branch(NamedTuple):
  """The conditions of one branch of the network."""

  text: str  # "prompt" or "negative"
  audio: str  # "voice" or "null" (zeros before the audio projection)


UNGUIDED = Branch("negative", "null")
TEXT_ONLY = Branch("prompt", "null")
FULL = Branch("prompt", "voice")


class Scales(NamedTuple):
  """Guidance of every step, on the host."""

  text: Float32[np.ndarray, "steps"]
  audio: Float32[np.ndarray, "steps"]
  negative: Float32[np.ndarray, "steps"]  # factor on the negative prompt's encoder output


def combine(un: Float[AnyArray, "*shape"], text: Float[AnyArray, "*shape"],
            full: Float[AnyArray, "*shape"], text_scale: Scale, audio_scale: Scale
            ) -> Float[AnyArray, "*shape"]:
  """Three-branch guidance."""
  return un + text_scale * (text - un) + audio_scale * (full - text)


def combine_audio(text: Float[AnyArray, "*shape"], full: Float[AnyArray, "*shape"],
                  audio_scale: Scale) -> Float[AnyArray, "*shape"]:
  """Two-branch guidance of flash."""
  return text + audio_scale * (full - text)


def dynamic_scale(scale: float, i: int, steps: int) -> float:
  """Guidance that falls from `scale` at step 0 towards half of it:
  scale / 2 (1 + (1 - cos(pi ((n - i) / n)^5)) / 2)."""
  return scale / 2 * (1 + (1 - math.cos(math.pi * ((steps - i) / steps) ** 5)) / 2)


def negative_prompt_scales(neg_scale: float, neg_steps: int, steps: int
                           ) -> Float32[np.ndarray, "steps"]:
  """Factors on the negative prompt's encoder output in the released preview script.

  Every step up to and including `neg_steps` multiplies the embedding that the step before left, and
  nothing undoes it: 1.5 and 2 give 1.5, 2.25, 3.375 and 3.375 to the end. The factor acts before
  padding and before the network's text projection. 1 switches it off.
  """
  multiplied = np.minimum(np.arange(steps), neg_steps) + 1
  return np.power(float(neg_scale), multiplied).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Guidance:
  """Guidance of one run; the defaults are those of the released preview script.

  Attributes:
    mode: `text_audio` (preview, three branches) or `audio` (flash, two branches).
    text_scale: g. At 1 or below there is no guidance whatever of either kind: the full branch runs
      alone, as released. In mode `audio` it is that switch and nothing more.
    audio_scale: g_a.
    dynamic_text: g falls over the steps (`dynamic_scale`); mode `text_audio` only.
    dynamic_audio: g_a falls over the steps; released flash keeps it constant.
    neg_scale: factor of `negative_prompt_scales`; mode `text_audio` only.
    neg_steps: last step that multiplies it; -1 for none.

  Raises:
    InputError: unknown mode, a number out of range, or a setting that the mode would ignore.
  """

  mode: str = "text_audio"
  text_scale: float = 4.0
  audio_scale: float = 2.9
  dynamic_text: bool = True
  dynamic_audio: bool = True
  neg_scale: float = 1.5
  neg_steps: int = 2

  def __post_init__(self):
    if self.mode not in MODES:
      raise InputError(f"Unknown guidance mode {self.mode!r}; known: {', '.join(MODES)}.")
    for name in ("text_scale", "audio_scale", "neg_scale"):
      if not math.isfinite(getattr(self, name)):
        raise InputError(f"Guidance {name} is {getattr(self, name)}; it must be a finite number.")
    if self.neg_scale < 0 or self.neg_steps < -1:
      raise InputError(f"Guidance neg_scale is {self.neg_scale} and neg_steps is {self.neg_steps}; "
                       "at least 0 and -1 are needed.")
    if self.mode == "audio" and (self.dynamic_text or self.neg_scale != 1):
      raise InputError("Guidance mode 'audio' has no negative prompt: "
                       "set dynamic_text to False and neg_scale to 1.")

  @property
  def branches(self) -> tuple[Branch, ...]:
    """Branches that the network runs at each step, in the order that `mix` wants them."""
    if self.text_scale <= 1:
      return (FULL,)
    return (UNGUIDED, TEXT_ONLY, FULL) if self.mode == "text_audio" else (TEXT_ONLY, FULL)

  def scales(self, steps: int) -> Scales:
    """Guidance and negative factor of each of `steps` steps."""
    def over_steps(scale, dynamic):
      return np.array([dynamic_scale(scale, i, steps) if dynamic else scale
                       for i in range(steps)], np.float32)

    return Scales(over_steps(self.text_scale, self.dynamic_text),
                  over_steps(self.audio_scale, self.dynamic_audio),
                  negative_prompt_scales(self.neg_scale, self.neg_steps, steps))

  def mix(self, velocities: Float[AnyArray, "branches *shape"], text_scale: Scale,
          audio_scale: Scale) -> Float[AnyArray, "*shape"]:
    """Guided velocity of a step.

    Args:
      velocities: one for each of `branches`.
      text_scale: g of the step.
      audio_scale: g_a of the step.
    """
    if len(velocities) != len(self.branches):
      raise ValueError(f"{len(velocities)} velocities for {len(self.branches)} guidance branches.")
    if len(velocities) == 1:
      return velocities[0]
    if self.mode == "audio":
      text, full = velocities
      return combine_audio(text, full, audio_scale)
    un, text, full = velocities
    return combine(un, text, full, text_scale, audio_scale)


PREVIEW = Guidance()
FLASH = Guidance("audio", text_scale=6.0, audio_scale=3.0, dynamic_text=False, dynamic_audio=False,
                 neg_scale=1.0, neg_steps=-1)
