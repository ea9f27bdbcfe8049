"""Walls behind the puppets: a colour and a pattern."""

from types import MappingProxyType

import numpy as np

from emv3_jax.puppets.world import palette
from emv3_jax.puppets.world.canvas import OVERSAMPLE, SIZE

PATTERNS = ("plain", "striped", "dotted", "checked", "wavy")


def _mask(pattern: str) -> np.ndarray:
  """Where the pattern's second tone goes, [256, 256] bool."""
  y, x = (np.mgrid[:SIZE * OVERSAMPLE, :SIZE * OVERSAMPLE] + 0.5) / OVERSAMPLE
  match pattern:
    case "plain":
      return np.zeros_like(x, bool)
    case "striped":
      return (x + y) % 12 < 6
    case "dotted":
      row = np.floor(y / 9)
      return ((x + 4.5 * (row % 2)) % 9 - 4.5) ** 2 + (y % 9 - 4.5) ** 2 < 2.7**2
    case "checked":
      return (np.floor(x / 8) + np.floor(y / 8)) % 2 == 0
    case "wavy":
      return (y + 1.8 * np.sin(x * 2 * np.pi / 16)) % 10 < 5
  raise KeyError(pattern)


_MASKS = MappingProxyType({pattern: _mask(pattern) for pattern in PATTERNS})


def draw(colour: str, pattern: str) -> np.ndarray:
  """The wall, [256, 256, 3] uint8; `colour` of `palette.BACKGROUND`, `pattern` of `PATTERNS`."""
  base = palette.BACKGROUND[colour]
  second = palette.shade(base, 0.82)
  return np.where(_MASKS[pattern][..., None], np.asarray(second, np.uint8), np.asarray(base, np.uint8))
