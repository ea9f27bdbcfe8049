"""The shape of a puppet's hair, read from pixels: what part of a clip's end it covers."""

import numpy as np

from emv3_jax.puppets.world import backdrop, palette
from emv3_jax.puppets.world.canvas import Canvas

NEAR = 48.0  # distance in RGB within which a pixel has a colour
_END = 4  # the last frames, a quarter of a clip


def cover(video: np.ndarray, hair: str, colour: str, pattern: str) -> np.ndarray:
  """The share of a clip's last quarter in which each pixel is hair, [64, 64] float64.

  A pixel is hair if it is near to the hair's colour or to its shadow, and nearer to them than to the wall.

  Args:
    video: [F, 64, 64, 3] uint8.
    hair: the colour's name.
    colour, pattern: of the wall.
  """
  end = video[-max(1, len(video) // _END):].astype(np.float64)
  tones = [palette.HAIR[hair], palette.shade(palette.HAIR[hair], 0.78)]
  wall = Canvas(backdrop.draw(colour, pattern)).picture().astype(np.float64)
  distance = np.min([np.linalg.norm(end - tone, axis=-1) for tone in tones], axis=0)
  return ((distance < NEAR) & (distance < np.linalg.norm(end - wall, axis=-1))).mean(0)


def overlap(seen: np.ndarray, true: np.ndarray) -> float:
  """Intersection over union of two covers, 0 to 1."""
  return float(np.minimum(seen, true).sum() / max(np.maximum(seen, true).sum(), 1e-9))
