"""The flaws of the puppets' world in what a model makes: fingers, jerks, colours that drift.

Each is read by the same reader from the samples, from the VAE's reconstructions of the true clips
and from these clips themselves: what a reader finds in clips without a flaw is its error.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from emv3_jax.puppets.world import readers
from emv3_jax.puppets.world.read_hand import Hand

SIX = 4  # more fingers than a puppet without a flaw holds up
JERKY = 0.8  # of `readers.jerk`
DRIFTING = 20.0  # levels of 255 by which a colour changes over the clip
_PARTS = ("skin", "hair", "clothes", "background")


@dataclasses.dataclass(frozen=True)
class Marks:
  """What a video shows beside the mouth.

  Attributes:
    hand: as found in each frame.
    gesture: the most likely one.
    jerk: of `readers.jerk`, pixels a frame^2.
    drift: of `drift`.
  """

  hand: Hand
  gesture: str
  jerk: float
  drift: float


def read(video: np.ndarray) -> Marks:
  """All of a video [F, 64, 64, 3] uint8; the hand, which takes longest, is looked for once."""
  hand = readers.hand(video)
  return Marks(hand, readers.gesture(video, hand), readers.jerk(video), drift(video))


def drift(video: np.ndarray) -> float:
  """By how much skin, hair, clothes or wall change from the first to the last quarter of a video:
  the greatest of them and of the channels, 0..255."""
  seen, quarter = readers.colours(video), max(1, len(video) // 4)
  change = [getattr(seen, part)[-quarter:].mean(0) - getattr(seen, part)[:quarter].mean(0)
            for part in _PARTS]
  return float(np.abs(change).max())


def row(marks: Marks, fingers: int) -> dict[str, float]:
  """The flaws of one video whose hand is to hold up `fingers`; see `figures`."""
  wrong, six = marks.hand.fingers != fingers, marks.hand.fingers > SIX
  return {"wrong_fingers": float(wrong.mean()), "six_fingers": float(six.mean()),
          "jerk": marks.jerk, "jerky": float(marks.jerk > JERKY),
          "drift": marks.drift, "drifting": float(marks.drift > DRIFTING)}


def figures(rows: Sequence[dict[str, float]]) -> dict[str, float]:
  """Means over clips.

  Returns:
    wrong_fingers, six_fingers: share of frames in which the hand holds up another number of fingers
      than it is to, more than four;
    jerk: of the head, pixels a frame^2; jerky: share of clips in which it is above JERKY;
    drift: levels of 255; drifting: share of clips in which it is above DRIFTING.
  """
  return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
