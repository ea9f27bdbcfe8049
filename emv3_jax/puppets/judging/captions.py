"""Whether a model does what captions say: what is asked for, what is seen, and what chance gives."""

from collections.abc import Sequence
import itertools

import numpy as np

from emv3_jax.puppets.judging.flaws import Marks
from emv3_jax.puppets.world import palette, readers
from emv3_jax.puppets.world.identities import BY_NAME
from emv3_jax.puppets.world.render import Truth

Pair = tuple  # (what the caption tells, what is seen)


def deeds(marks: Marks, truth: Truth) -> dict[str, Pair]:
  """The gesture, and how many fingers most frames show, of a video and of its caption."""
  return {"gesture": (truth.gesture, marks.gesture),
          "fingers": (truth.fingers, int(np.bincount(marks.hand.fingers).argmax()))}


def looks(video: np.ndarray, truth: Truth) -> dict[str, Pair]:
  """What a caption tells of a puppet and its wall, as a video shows it; and the puppet's name, of
  whose colours it tells the hair alone."""
  background, pattern = readers.background(video)
  return {"identity": (truth.identity, readers.identity(video)),
          "hair": (BY_NAME[truth.identity].hair, hair(video)),
          "clothes": (truth.clothes, readers.clothes(video)),
          "background": (truth.background, background), "pattern": (truth.pattern, pattern)}


def hair(video: np.ndarray) -> str:
  """The name in `palette.HAIR` nearest to what is on the crown over the clip."""
  seen = np.median(readers.colours(video).hair, axis=0)
  distance = {name: np.abs(seen - colour).mean() for name, colour in palette.HAIR.items()}
  return min(distance, key=lambda name: distance[name])


def figures(rows: Sequence[dict[str, Pair]]) -> dict[str, float]:
  """By kind of attribute: the share of clips that show it, and as NAME/chance the share that would if
  captions were shuffled, each clip with each other one's."""
  shares = {}
  for name in rows[0]:
    pairs = [row[name] for row in rows]
    shares[name] = float(np.mean([wanted == seen for wanted, seen in pairs]))
    shares[f"{name}/chance"] = float(np.mean(
        [wanted == seen for (wanted, _), (_, seen) in itertools.permutations(pairs, 2)]))
  return shares
