"""Head, eyes, nose and the mouth that the sound opens, in the head's own coordinates.

Origin at the centre of the head, x to the right, y downwards, in pixels at 64x64.
"""

import numpy as np

from emv3_jax.puppets.world import palette
from emv3_jax.puppets.world.canvas import Canvas, Pose, curve, ellipse
from emv3_jax.puppets.world.identities import Identity

HEAD_HEIGHT = 19.0  # half of it, jaw at rest
JAW_DROP = 1.5  # how far the chin follows a mouth that opens fully
MOUTH_HALF_WIDTH = 9.0
MOUTH_RISE = 5.6  # the corners' distance below the centre of the head
MOUTH_SAG = 1.9  # the smile: how far the middle of the shut lips hangs below the corners
MOUTH_REACH = 10.5  # height of the mouth's inside where it is fully open
_EYE_X, _EYE_Y = 7.4, -3.6


def _arch(points: int = 33) -> tuple[np.ndarray, np.ndarray]:
  """Places across the mouth in [-1, 1] and the share of the opening that each one gets."""
  across = np.sin(np.linspace(-np.pi / 2, np.pi / 2, points))
  return across, (1 - across**2) ** 0.6


def mouth_outline(opening: float) -> tuple[np.ndarray, np.ndarray]:
  """Upper and lower lip line, each [33, 2], left to right.

  The inside lies between them; its area is exactly proportional to `opening` (0 shut, 1 wide open).
  """
  across, share = _arch()
  upper = MOUTH_RISE + MOUTH_SAG * (1 - across**2)
  x = MOUTH_HALF_WIDTH * across
  return np.stack([x, upper], -1), np.stack([x, upper + opening * MOUTH_REACH * share], -1)


def mouth_area() -> float:
  """Area of the inside of a fully open mouth, in square pixels."""
  across, share = _arch(2001)
  return float(MOUTH_HALF_WIDTH * MOUTH_REACH * np.trapezoid(share, across))


def draw_head(canvas: Canvas, identity: Identity, opening: float, pose: Pose) -> None:
  """Ears and the bare head, its chin lowered by the mouth's `opening`."""
  skin = palette.SKIN[identity.skin]
  edge = palette.shade(skin, 0.62)
  width = identity.face_width
  for side in (-1, 1):
    canvas.fill(ellipse(side * width, 0, 3.2, 4.2, 20), edge, pose)
    canvas.fill(ellipse(side * width, 0, 2.5, 3.5, 20), palette.shade(skin, 0.9), pose)
  for grow, colour in ((0.7, edge), (0.0, skin)):
    head = ellipse(0, 0, width + grow, HEAD_HEIGHT + grow, 48)
    head[head[:, 1] > 0, 1] *= 1 + JAW_DROP * opening / HEAD_HEIGHT
    canvas.fill(head, colour, pose)


def draw_features(canvas: Canvas, identity: Identity, opening: float, blink: float,
                  gaze: tuple[float, float], pose: Pose) -> None:
  """Eyes (`blink` 0 open, 1 shut; `gaze` moves the pupils), brows, cheeks, nose and mouth."""
  skin = palette.SKIN[identity.skin]
  dark = palette.shade(skin, 0.5)
  for side in (-1, 1):
    _draw_eye(canvas, identity, side, blink, gaze, pose)
    brow = curve((side * 4.2, _EYE_Y - 5.0), (side * 7.6, _EYE_Y - 6.2), (side * 11, _EYE_Y - 4.8))
    canvas.stroke(brow, palette.shade(palette.HAIR[identity.hair], 0.7), 1.2, pose)
    if identity.accessory == "freckles":
      for x, y in ((9.2, 2.2), (11.6, 1.5), (11.2, 4.0)):
        canvas.fill(ellipse(side * x, y, 0.65, 0.65, 10), palette.shade(skin, 0.72), pose)
  nose = curve((-1.9, 1.6), (0, 3.2), (1.9, 1.6), points=7)
  canvas.stroke(nose, palette.shade(skin, 0.66), 1.1, pose)
  _draw_mouth(canvas, opening, dark, pose)


def _draw_eye(canvas: Canvas, identity: Identity, side: int, blink: float,
              gaze: tuple[float, float], pose: Pose) -> None:
  skin = palette.SKIN[identity.skin]
  x = side * _EYE_X
  height = 4.2 * (1 - blink)
  if height < 0.8:
    lid = curve((x - 3.2, _EYE_Y + 0.4), (x, _EYE_Y + 2.0), (x + 3.2, _EYE_Y + 0.4), points=8)
    canvas.stroke(lid, palette.shade(skin, 0.4), 1.1, pose)
    return
  canvas.fill(ellipse(x, _EYE_Y, 4.1, height + 0.6), palette.shade(skin, 0.55), pose)
  canvas.fill(ellipse(x, _EYE_Y, 3.5, height), palette.EYE_WHITE, pose)
  pupil_x, pupil_y = x + gaze[0] - side * 0.4, _EYE_Y + gaze[1]
  tall = min(2.5, height)
  canvas.fill(ellipse(pupil_x, pupil_y, 2.4, tall, 24), palette.EYES[identity.eyes], pose)
  canvas.fill(ellipse(pupil_x, pupil_y, 1.4, min(1.5, tall), 20), palette.INK, pose)
  if height > 2:
    canvas.fill(ellipse(pupil_x - 0.8, pupil_y - 0.9, 0.75, 0.75, 12), palette.EYE_WHITE, pose)


def _draw_mouth(canvas: Canvas, opening: float, lips: palette.Colour, pose: Pose) -> None:
  upper, lower = mouth_outline(opening)
  # Lips go first: strokes over the inside would hide a share of it that depends on the opening.
  canvas.stroke(upper[::2], lips, 1.7, pose)
  if opening > 0:
    canvas.stroke(lower[::2], lips, 1.7, pose)
    canvas.fill(np.concatenate([upper, lower[::-1]]), palette.MOUTH, pose)


def draw_accessory(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  """Glasses or earrings, over everything else on the head."""
  if identity.accessory == "glasses":
    for side in (-1, 1):
      rim = ellipse(side * _EYE_X, _EYE_Y + 0.3, 5.9, 5.9, 24)
      canvas.stroke(np.concatenate([rim, rim[:1]]), palette.INK, 1.0, pose)
      temple = np.array([(side * 13.3, _EYE_Y), (side * identity.face_width, _EYE_Y - 1)])
      canvas.stroke(temple, palette.INK, 1.0, pose)
    canvas.stroke(curve((-1.5, _EYE_Y), (0, _EYE_Y - 0.6), (1.5, _EYE_Y), points=5),
                  palette.INK, 1.0, pose)
  elif identity.accessory == "earrings":
    for side in (-1, 1):
      canvas.fill(ellipse(side * (identity.face_width + 0.8), 6.4, 1.9, 1.9, 16), (236, 196, 60),
                  pose)
