"""PNG, phase-aware negative guidance: the sampling steps are cut into phases, each with a negative prompt of its
own and a weight.

With a weight w the velocity is

    text + w (g - 1) (text - un) + g_a (full - text),

which is plain guidance with 1 + w (g - 1) in place of g: at w = 1 it is plain guidance to the bit, at w = 0 there is
no guidance by text. A step has one negative prompt, so that there are three branches as ever.

The paper gives the idea alone: prompts about motion for the early steps, about details for the later ones. The texts
and weights of `PHASES` are ours.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import math

from emv3_jax.errors import InputError
from emv3_jax.limits import ABOVE_0, AMOUNT, LARGEST, check_ranges


@dataclasses.dataclass(frozen=True)
class Phase:
  """Steps of one negative prompt, from the end of the phase before on.

  Attributes:
    until: share of all steps, in (0, 1], at which the phase ends; 1 for the end.
    until_step: number of steps after which it ends, in place of `until`; 0 leaves it to `until`.
    negative_prompt: what its steps are guided away from; None takes the negative prompt of the settings.
    weight: w, 0 or more.

  Raises:
    InputError: a number is out of range, or both ends are given.
  """

  until: float = 1.0
  until_step: int = 0
  negative_prompt: str | None = None
  weight: float = 1.0

  def __post_init__(self):
    check_ranges("A phase of PNG:", self, {"until": (ABOVE_0, 1), "until_step": AMOUNT, "weight": (0, LARGEST)})
    if self.until_step and self.until < 1:
      raise InputError(f"A phase of PNG ends at until={self.until:g} and at until_step={self.until_step}; "
                       "leave one of them out.")

  @property
  def is_open(self) -> bool:
    """Whether the phase lasts to the end."""
    return not self.until_step and self.until == 1

  def end(self, steps: int) -> int:
    """Returns the number of steps, of `steps` in all, before the end of the phase."""
    return min(self.until_step, steps) if self.until_step else first_steps(self.until, steps)


PHASES = (
    Phase(until_step=3, weight=1.5, negative_prompt=(
        "Unnatural gestures. Jerky, trembling or exaggerated movements. Hands that wave, twitch or repeat the same "
        "motion. A swaying body. A mouth that moves without speech.")),
    Phase(negative_prompt=(
        "Blurred or deformed hands, extra or fused fingers. Blurred teeth and lips. Distorted face. Flickering "
        "textures. Unnatural, oversaturated or changing colours.")))


def first_steps(share: float, steps: int) -> int:
  """Returns the number of steps that a share of `steps` in (0, 1] is, rounded up."""
  return math.ceil(round(share * steps, 9))  # 0.07 of 100 steps are 7, in floating point a little more


def check_phases(phases: Sequence[Phase]) -> None:
  """Checks that phases follow each other up to the end.

  Raises:
    InputError: there is none, one does not end after the one before, or the last ends too early.
  """
  if not phases:
    raise InputError("PNG has no phases; give at least one.")
  for number, (phase, after) in enumerate(itertools.pairwise(phases)):
    if not _is_followed_by(phase, after):
      raise InputError(f"Phases of PNG are out of order: phase {number + 1} does not end after phase {number}; "
                       "sort them by their ends, the last without one.")
  if not phases[-1].is_open:
    raise InputError(f"The last phase of PNG, {len(phases) - 1}, ends before the last step; leave its end out.")


def _is_followed_by(phase: Phase, after: Phase) -> bool:
  if phase.is_open or after.is_open:
    return not phase.is_open
  if bool(phase.until_step) == bool(after.until_step):
    return (phase.until_step, phase.until) < (after.until_step, after.until)
  return True  # a share and a number of steps: `phase_by_step` knows


def phase_by_step(phases: Sequence[Phase], steps: int) -> list[int]:
  """Returns the index of the phase of each of `steps` steps.

  Raises:
    InputError: with this number of steps a phase ends before the one before it.
  """
  ends = [phase.end(steps) for phase in phases]
  for number, (end, after) in enumerate(itertools.pairwise(ends)):
    if after < end:
      raise InputError(f"Of {steps} steps phase {number + 1} of PNG ends after {after}, phase {number} after {end}; "
                       "sort them by their ends.")
  return [next(index for index, end in enumerate(ends) if step < end) for step in range(steps)]


def name_of(number: int) -> str:
  """Returns the name of the negative prompt of a phase, counted from 0, among a clip's prompts."""
  return f"negative {number}" if number else "negative"
