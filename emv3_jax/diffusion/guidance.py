"""Classifier-free guidance by text and audio: which network branches run, and how they are mixed.

    velocity = un + g (text - un) + g_a (full - text)

un is conditioned on neither prompt nor voice, text on the prompt alone, full on both. The released
flash model guides by audio alone: velocity = text + g_a (full - text).

The factors of un, text and full are 1 - g, g - g_a and g_a. A branch whose factor is 0 at a step does not
run at this step: un at g = 1, text at g = g_a, both at g = g_a = 1.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
from jaxtyping import Float, Float32
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.diffusion import negative_phases
from emv3_jax.diffusion.negative_phases import Phase
from emv3_jax.errors import InputError
from emv3_jax.limits import ABOVE_0, check

MODES = ("text_audio", "audio")
Scale = float | np.floating | Float[AnyArray, ""]


class Branch(NamedTuple):
  """The conditions of one branch of the network."""

  text: str  # "prompt" or "negative"
  audio: str  # "voice" or "null" (zeros before the audio projection)


@jax.tree_util.register_static
class Branches(tuple[Branch, ...]):
  """Branches that run at a step, in the order UNGUIDED, TEXT_ONLY, FULL. As an argument of a compiled function it
  is static: each set has a program of its own."""

  __slots__ = ()


UNGUIDED = Branch("negative", "null")
TEXT_ONLY = Branch("prompt", "null")
FULL = Branch("prompt", "voice")
FULL_ALONE = Branches((FULL,))


class Scales(NamedTuple):
  """Guidance of every step, on the host."""

  text: Float32[np.ndarray, "steps"]
  audio: Float32[np.ndarray, "steps"]
  negative: Float32[np.ndarray, "steps"]  # factor on the negative prompt's encoder output


class StepGuidance(NamedTuple):
  """Guidance of one step, on the host.

  Attributes:
    branches: those that run.
    text_scale, audio_scale: g, with the weight of the phase in it, and g_a; both 1 without guidance.
    negative: number of the phase, whose negative prompt it is; 0 without phases.
    negative_scale: factor on the negative prompt's encoder output.
  """

  branches: Branches
  text_scale: float
  audio_scale: float
  negative: int
  negative_scale: np.float32

  @property
  def context(self) -> tuple:
    """What the keys and values of cross-attention depend on; equal ones can be used again."""
    return self.branches, *((self.negative, self.negative_scale) if UNGUIDED in self.branches else ())


Schedule = tuple[StepGuidance, ...]


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


def mix(branches: Branches, velocities: Float[AnyArray, "branches *shape"], text_scale: Scale,
        audio_scale: Scale) -> Float[AnyArray, "*shape"]:
  """Guided velocity of a step.

  Args:
    branches: that ran; others have a factor of 0 at these scales.
    velocities: one for each of `branches`.
    text_scale, audio_scale: g and g_a of the step.
  """
  if len(velocities) != len(branches):
    raise ValueError(f"{len(velocities)} velocities for {len(branches)} guidance branches.")
  if len(branches) == 1:
    return velocities[0]
  if len(branches) == 2:  # without text g = g_a
    base, other = velocities
    return combine_audio(base, other, audio_scale if FULL in branches else text_scale)
  un, text, full = velocities
  return combine(un, text, full, text_scale, audio_scale)


def largest(schedule: Schedule) -> Branches:
  """Returns the largest set of branches of a schedule, of equal ones the first."""
  return max((step.branches for step in schedule), key=len)


@dataclasses.dataclass(frozen=True)
class Guidance:
  """Guidance of one run; the defaults are those of the released preview script.

  Attributes:
    mode: `text_audio` (preview, three branches) or `audio` (flash, two branches).
    text_scale: g; in mode `audio` only what `released_switch` makes of it.
    audio_scale: g_a.
    dynamic_text: g falls over the steps (`dynamic_scale`); mode `text_audio` only.
    dynamic_audio: g_a falls over the steps; released flash keeps it constant.
    neg_scale: factor of `negative_prompt_scales`; mode `text_audio` only.
    neg_steps: last step that multiplies it; -1 for none.
    until: share of the steps in (0, 1], from the first on, that are guided; after them FULL runs alone.
    released_switch: whether a text_scale of 1 or below means no guidance whatever of either kind, as released.
    phases: of PNG, in place of neg_scale; empty for one negative prompt. Mode `text_audio` only.

  Raises:
    InputError: unknown mode, a number out of range, phases that do not follow each other, or a setting that the
      mode would ignore.
  """

  mode: str = "text_audio"
  text_scale: float = 4.0
  audio_scale: float = 2.9
  dynamic_text: bool = True
  dynamic_audio: bool = True
  neg_scale: float = 1.5
  neg_steps: int = 2
  until: float = 1.0
  released_switch: bool = True
  phases: tuple[Phase, ...] = ()

  def __post_init__(self):
    if self.mode not in MODES:
      raise InputError(f"Unknown guidance mode {self.mode!r}; known: {', '.join(MODES)}.")
    for name in ("text_scale", "audio_scale", "neg_scale"):
      if not math.isfinite(getattr(self, name)):
        raise InputError(f"Guidance {name} is {getattr(self, name)}; it must be a finite number.")
    if self.neg_scale < 0 or self.neg_steps < -1:
      raise InputError(f"Guidance neg_scale is {self.neg_scale} and neg_steps is {self.neg_steps}; "
                       "at least 0 and -1 are needed.")
    if self.mode == "audio" and (self.dynamic_text or self.neg_scale != 1 or self.phases):
      raise InputError("Guidance mode 'audio' has no negative prompt: "
                       "set dynamic_text to False and neg_scale to 1, and leave phases out.")
    if self.phases and self.neg_scale != 1:
      raise InputError(f"Guidance has phases, and neg_scale {self.neg_scale}; set it to 1, phases have weights.")
    check("Guidance until", self.until, (ABOVE_0, 1))
    if self.phases:
      negative_phases.check_phases(self.phases)

  @property
  def by_text(self) -> bool:
    """Whether there is a negative prompt."""
    return self.mode == "text_audio"

  def schedule(self, steps: int, windows: str = "blended") -> Schedule:
    """Guidance of each of `steps` steps.

    Args:
      steps: of the solver.
      windows: mode of `diffusion.windows`, which decides the branches that a step can do without: `paper` mixes
        text of two windows with un and full of one, `paper_literal` guides in the overlap at scales of 1 too.

    Raises:
      InputError: phases end in another order with this number of steps.
    """
    guided = negative_phases.first_steps(self.until, steps)
    if self.released_switch and self.text_scale <= 1:
      guided = 0
    phases = self.phases or (Phase(),)
    factors = negative_prompt_scales(self.neg_scale, self.neg_steps, steps)
    found = []
    for i, number in enumerate(negative_phases.phase_by_step(phases, steps)):
      if i >= guided:
        found.append(StepGuidance(FULL_ALONE, 1.0, 1.0, 0, np.float32(1)))
        continue
      g = _at_step(self.text_scale, self.dynamic_text, i, steps) if self.by_text else 1.0
      g = g if phases[number].weight == 1 else 1 + phases[number].weight * (g - 1)
      g_a = _at_step(self.audio_scale, self.dynamic_audio, i, steps)
      found.append(StepGuidance(_needed(g, g_a, self.by_text, windows), g, g_a, number, factors[i]))
    return tuple(found)

  def scales(self, steps: int) -> Scales:
    """Guidance and negative factor of each of `steps` steps."""
    _, text, audio, _, negative = zip(*self.schedule(steps), strict=True)
    return Scales(*(np.array(values, np.float32) for values in (text, audio, negative)))


def _at_step(scale: float, dynamic: bool, i: int, steps: int) -> float:
  return dynamic_scale(scale, i, steps) if dynamic else scale


def _needed(g: float, g_a: float, by_text: bool, windows: str) -> Branches:
  """Returns the branches with a factor other than 0."""
  if windows == "paper_literal":
    needed = (by_text, True, True)
  elif windows == "paper":  # v_full + (g - 1) (V_text - v_un) + (g_a - 1) (V_full - v_text)
    needed = (g != 1, g != 1 or g_a != 1, True)
  else:
    needed = (g != 1, g != g_a, g_a != 0)
  return Branches(branch for branch, is_needed in zip((UNGUIDED, TEXT_ONLY, FULL), needed, strict=True) if is_needed)


PREVIEW = Guidance()
FLASH = Guidance("audio", text_scale=6.0, audio_scale=3.0, dynamic_text=False, dynamic_audio=False,
                 neg_scale=1.0, neg_steps=-1)
