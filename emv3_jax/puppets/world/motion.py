"""How a puppet moves: head, hand, eyelids and gaze for each frame, and motion gone wrong."""

import dataclasses

import numpy as np

from emv3_jax.geometry import FPS
from emv3_jax.puppets.world.canvas import Pose
from emv3_jax.puppets.world.clips import ClipSpec

HEAD = (32.0, 28.0)  # where the head rests
NECK = (0.0, 18.0)  # what it turns about, from its own centre
HAND = (12.4, 53.8)  # where a left hand rests; a right one mirrors it
_JERK_EVERY = 3  # frames between two jumps of a jerky clip
_JERK = 4.0  # pixels


@dataclasses.dataclass(frozen=True)
class Motion:
  """Tracks over a clip.

  Attributes:
    head, hand: a pose per frame.
    blink: [frames], 0 open to 1 shut.
    gaze: [frames, 2], the pupils' offset in pixels.
  """

  head: tuple[Pose, ...]
  hand: tuple[Pose, ...]
  blink: np.ndarray
  gaze: np.ndarray


def _sway(rng: np.random.Generator, seconds: np.ndarray, size: float) -> np.ndarray:
  """A slow wander within about +-size, [frames]."""
  rates, starts = rng.uniform(0.25, 0.7, 2), rng.uniform(0, 2 * np.pi, 2)
  return size * np.sin(2 * np.pi * seconds[:, None] * rates + starts).mean(1)


def _blinks(rng: np.random.Generator, frames: int) -> np.ndarray:
  """A blink of five frames every 1.5 to 4 seconds."""
  shut = np.zeros(frames + 5)
  at = int(rng.integers(4, 60))
  while at < frames:
    shut[at:at + 5] = (0.45, 1.0, 1.0, 0.6, 0.25)
    at += int(rng.integers(38, 100))
  return shut[:frames]


def motion(spec: ClipSpec, opening: np.ndarray) -> Motion:
  """Moves the puppet of `spec` while its mouth follows `opening` [frames]."""
  rng = np.random.default_rng((spec.seed, 1))
  seconds = np.arange(spec.frames) / FPS
  x, y = _sway(rng, seconds, 1.1), _sway(rng, seconds, 0.8)
  tilt = np.radians(_sway(rng, seconds, 3.0))
  hand_x, hand_y = _sway(rng, seconds, 0.7), _sway(rng, seconds, 0.7)
  lean = np.radians(-7.0 + _sway(rng, seconds, 4.0))
  y = y - 0.5 * opening  # talking lifts the head a little
  beat = np.sin(2 * np.pi * (seconds * rng.uniform(1.2, 1.7) + rng.random()))
  match spec.gesture:
    case "waves":
      lean, hand_x = lean + np.radians(17) * beat, hand_x + 1.5 * beat
    case "lifts a hand":
      hand_y = hand_y - 2.5 - 2.5 * beat
    case "nods":
      y = y + 1.7 * beat
    case "shakes the head":
      x = x + 2.0 * beat
    case "tilts the head":
      tilt = tilt + np.radians(6) * beat
  blink = _blinks(rng, spec.frames)
  gaze = np.stack([_sway(rng, seconds, 1.0), _sway(rng, seconds, 0.5)], -1)
  jumps = np.zeros((spec.frames, 4))
  if spec.flaw == "jerky motion":
    shape = (spec.frames // _JERK_EVERY + 2, 4)
    held = rng.uniform(0.5, 1, shape) * _JERK * rng.choice((-1, 1), shape)
    jumps = held[(np.arange(spec.frames) + rng.integers(_JERK_EVERY)) // _JERK_EVERY]
  side = spec.hand_side
  rest_x = HAND[0] if side < 0 else 64 - HAND[0]
  return Motion(
    head=tuple(
      Pose((HEAD[0] + x[i] + jumps[i, 0], HEAD[1] + y[i] + 0.5 * jumps[i, 1]), tilt[i], NECK)
      for i in range(spec.frames)),
    hand=tuple(
      Pose((rest_x + side * hand_x[i] + 0.5 * jumps[i, 2], HAND[1] + hand_y[i] + 0.5 * jumps[i, 3]),
           side * -lean[i])
      for i in range(spec.frames)),
    blink=blink,
    gaze=gaze,
  )
