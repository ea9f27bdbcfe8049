"""The puppets: eight, a crowd of thirty more, and four that are only met after training.

No two share both skin and hair colour, which is what `readers.identity` tells them apart by. The
held-out four recombine parts that training has shown: a new person, not a new kind of drawing. With
the crowd, every other pair of skin and hair is trained on: what eight people look like can be learnt
by heart, of thirty-eight it is easier to learn to look at the portrait. Where captions are understood
that is not enough: hair, its shape and what is worn tell which of the thirty-eight it is, and so the
skin. Of `mixed` people each part is drawn by itself, so that only the portrait tells the skin.
"""

import dataclasses
import itertools
from types import MappingProxyType

import numpy as np

from emv3_jax.puppets.world import palette


@dataclasses.dataclass(frozen=True)
class Identity:
  """What stays the same whenever a puppet appears.

  Attributes:
    name: unique.
    skin, hair, eyes: names in the palette's tables.
    hair_style: a name in `hair.STYLES`.
    face_width: half the width of the head, in pixels at 64x64.
    accessory: "glasses", "freckles", "earrings" or "" for none.
  """

  name: str
  skin: str
  hair: str
  hair_style: str
  eyes: str
  face_width: float = 17.5
  accessory: str = ""


TRAIN = (
  Identity("Ada", "peach", "brown", "bob", "green", 17.5, "glasses"),
  Identity("Bo", "cocoa", "black", "curly", "brown", 17.0),
  Identity("Cleo", "porcelain", "ginger", "pigtails", "blue", 17.5, "freckles"),
  Identity("Dex", "honey", "black", "spiky", "brown", 18.0),
  Identity("Ewa", "porcelain", "blonde", "long", "blue", 17.0),
  Identity("Finn", "peach", "blue", "spiky", "grey", 17.5, "freckles"),
  Identity("Gia", "caramel", "brown", "bun", "green", 17.0, "earrings"),
  Identity("Hugo", "espresso", "silver", "short", "brown", 18.0, "glasses"),
)

HELD_OUT = (
  Identity("Iris", "honey", "ginger", "bob", "green", 17.0, "earrings"),
  Identity("Jomo", "cocoa", "blue", "curly", "brown", 17.5, "glasses"),
  Identity("Kai", "porcelain", "black", "short", "grey", 18.0),
  Identity("Lux", "caramel", "silver", "long", "blue", 17.5, "freckles"),
)


_FREE = ("hair_style", "eyes", "face_width", "accessory")


def _others() -> tuple[Identity, ...]:
  """A puppet for each pair of skin and hair that is left, its other parts those of the eight."""
  taken = {(identity.skin, identity.hair) for identity in TRAIN + HELD_OUT}
  rng = np.random.default_rng(0)
  part = lambda field: getattr(TRAIN[rng.integers(len(TRAIN))], field)
  return tuple(
      Identity(f"{skin} and {hair}", skin, hair, **{field: part(field) for field in _FREE})
      for skin, hair in itertools.product(palette.SKIN, palette.HAIR) if (skin, hair) not in taken)


CROWD = TRAIN + _others()

def mixed(rng: np.random.Generator) -> Identity:
  """Draws a puppet whose parts are independent of each other, but for the held-out pairs of skin and hair.

  Its name is that of the crowd's puppet with this pair, as which `readers.identity` knows it.
  """
  seen = CROWD[rng.integers(len(CROWD))]
  part = lambda field: getattr(TRAIN[rng.integers(len(TRAIN))], field)
  return Identity(seen.name, seen.skin, seen.hair, **{field: part(field) for field in _FREE})


BY_NAME = MappingProxyType({identity.name: identity for identity in CROWD + HELD_OUT})
