"""Body, clothes and the gloved hand.

The body stands still; the hand has coordinates of its own: origin in the middle of the palm, fingers
upwards, in pixels at 64x64.
"""

import math

import numpy as np

from emv3_jax.puppets.world import palette
from emv3_jax.puppets.world.canvas import Canvas, Pose, capsule, curve, ellipse
from emv3_jax.puppets.world.identities import Identity

GARMENTS = ("sweater", "hoodie", "shirt", "jacket")
PALM = 5.3
FINGER_LENGTH = 12.4
FINGER_RADIUS = 1.75
FINGER_SPREAD = math.radians(27)
OUTLINE = 0.75


def draw_body(canvas: Canvas, identity: Identity, clothes: str, garment: str) -> None:
  """Neck, shoulders and what they wear: a colour of `palette.CLOTHES`, a cut of `GARMENTS`."""
  colour = palette.CLOTHES[clothes]
  dark, light = palette.shade(colour, 0.62), palette.mix(colour, (255, 255, 255), 0.3)
  skin = palette.SKIN[identity.skin]
  canvas.fill(capsule((32, 44), (32, 54), 6.5), palette.shade(skin, 0.84))
  for grow, tone in ((0.8, dark), (0.0, colour)):
    shoulders = np.concatenate([
      ellipse(32, 66, 24 + grow, 16 + grow, 40)[20:],
      [(56 + grow, 80), (8 - grow, 80)],
    ])
    canvas.fill(shoulders, tone)
  if garment == "sweater":
    canvas.fill(ellipse(32, 50.5, 9, 4), dark)
    canvas.fill(ellipse(32, 49.6, 8, 3.2), light)
    canvas.fill(ellipse(32, 48.6, 6.5, 3), palette.shade(skin, 0.84))
  elif garment == "hoodie":
    canvas.fill(ellipse(32, 50.5, 13, 5), dark)
    canvas.fill(ellipse(32, 49.4, 12, 4.4), colour)
    canvas.fill(ellipse(32, 48.8, 6.5, 3.4), palette.shade(skin, 0.84))
    for x in (28.5, 35.5):
      canvas.stroke(np.array([(x, 52.5), (x, 58)]), light, 1.2)
  else:
    canvas.fill(np.array([(25.5, 50), (38.5, 50), (32, 57)]), palette.shade(skin, 0.84))
    trim = light if garment == "shirt" else dark
    for side in (-1, 1):
      collar = [(32 + side * 6.5, 49), (32 + side * 8.5, 54), (32 + side * 3, 57), (32, 56)]
      canvas.fill(np.array(collar), trim)
    if garment == "shirt":
      canvas.fill(ellipse(32, 60.5, 0.9, 0.9, 12), dark)
    else:
      canvas.stroke(np.array([(32, 56), (32, 66)]), dark, 1.1)


def draw_sleeve(canvas: Canvas, clothes: str, hand: Pose) -> None:
  """The arm that comes up from below the picture to the wrist of `hand`."""
  colour = palette.CLOTHES[clothes]
  wrist = hand.place(np.array([(0.0, 6.0)]))[0]
  elbow = (wrist[0] + (32 - hand.origin[0]) * 0.12, 74)
  canvas.fill(capsule(elbow, wrist, 5.0), palette.shade(colour, 0.62))
  canvas.fill(capsule(elbow, wrist, 4.2), colour)
  cuff = hand.place(curve((-4.4, 6.2), (0, 7.2), (4.4, 6.2), points=6))
  canvas.stroke(cuff, palette.mix(colour, (255, 255, 255), 0.3), 1.6)


def draw_hand(canvas: Canvas, fingers: int, hand: Pose) -> None:
  """A white glove that holds up `fingers` fingers, spread like a fan."""
  for grow, colour in ((OUTLINE, palette.INK), (0.0, palette.GLOVE)):
    canvas.fill(ellipse(0, 0, PALM + grow, PALM + grow, 28), colour, hand)
    for angle in finger_angles(fingers):
      tip = (FINGER_LENGTH * math.sin(angle), -FINGER_LENGTH * math.cos(angle))
      root = (0.3 * tip[0], 0.3 * tip[1])
      canvas.fill(capsule(root, tip, FINGER_RADIUS + grow), colour, hand)


def finger_angles(fingers: int) -> np.ndarray:
  """Directions [fingers] in radians, 0 straight up, clockwise positive, symmetric about 0."""
  return FINGER_SPREAD * (np.arange(fingers) - (fingers - 1) / 2)
