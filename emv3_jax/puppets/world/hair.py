"""Seven ways to wear one's hair, each drawn behind and in front of the head.

Coordinates are the head's: origin at its centre, x to the right, y downwards, in pixels at 64x64.
Every style covers the crown, where the readers look for the hair's colour.
"""

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from emv3_jax.puppets.world import palette
from emv3_jax.puppets.world.canvas import Canvas, Pose, capsule, curve, ellipse
from emv3_jax.puppets.world.identities import Identity

Painter = Callable[[Canvas, Identity, Pose], None]

_CROWN = -1.5  # height of the middle of the ellipse that the hair follows
_RISE = 20.5


def behind(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  """Draws what the head will cover in part."""
  STYLES[identity.hair_style][0](canvas, identity, pose)


def in_front(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  """Draws what covers the head."""
  STYLES[identity.hair_style][1](canvas, identity, pose)


def _tones(identity: Identity) -> tuple[palette.Colour, palette.Colour, palette.Colour]:
  """The hair's colour, its shadow and its gleam."""
  colour = palette.HAIR[identity.hair]
  return colour, palette.shade(colour, 0.78), palette.mix(colour, (255, 255, 255), 0.28)


def _cap(identity: Identity, *hairline: tuple[float, float], reach: float = 0.0) -> np.ndarray:
  """Over the crown from ear to ear, down to `hairline` (knots from right to left)."""
  width = identity.face_width + 1.4
  angle = np.linspace(np.pi - reach, 2 * np.pi + reach, 30)
  over = np.stack([width * np.cos(angle), _CROWN + _RISE * np.sin(angle)], -1)
  return np.concatenate([over, curve(*hairline, points=16)])


def _gleam(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  line = curve((-10.5, -14.6), (-7, -17.6), (-2.5, -18.9), points=6)
  canvas.stroke(line, _tones(identity)[2], 1.3, pose)


def _nothing(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  del canvas, identity, pose


def _round_back(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  width = identity.face_width + 3
  canvas.fill(ellipse(0, 1, width, 21), _tones(identity)[1], pose)
  canvas.fill(ellipse(-width + 4, 12, 5, 7), _tones(identity)[1], pose)
  canvas.fill(ellipse(width - 4, 12, 5, 7), _tones(identity)[1], pose)


def _fringe(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  width = identity.face_width
  line = ((width, 6), (width - 3.5, -6), (6, -9.5), (-6, -9.5), (-width + 3.5, -6), (-width, 6))
  canvas.fill(_cap(identity, *line, reach=0.3), _tones(identity)[0], pose)
  for x in (-6, 0, 6):
    canvas.stroke(np.array([(x, -9.8), (x + 0.8, -13)]), _tones(identity)[1], 0.8, pose)
  _gleam(canvas, identity, pose)


def _curls_back(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  for angle in np.linspace(0.86 * np.pi, 2.14 * np.pi, 13):
    x, y = (identity.face_width + 0.5) * np.cos(angle), -3 + 17.5 * np.sin(angle)
    canvas.fill(ellipse(x, y, 5.2, 5.2, 20), _tones(identity)[1], pose)


def _curls(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  colour, shadow, gleam = _tones(identity)
  width = identity.face_width
  canvas.fill(_cap(identity, (width, -6), (0, -13), (-width, -6)), colour, pose)
  for angle in np.linspace(1.1 * np.pi, 1.9 * np.pi, 7):
    x, y = (width - 2) * np.cos(angle), -4 + 12 * np.sin(angle)
    canvas.fill(ellipse(x, y, 4.2, 3.9, 20), colour, pose)
  for x, y in ((-9, -14), (-3, -18), (4, -17), (10, -13.5)):
    canvas.stroke(curve((x - 1.6, y), (x, y - 1.5), (x + 1.6, y), points=5), gleam, 0.9, pose)
  for x, y in ((-6, -12), (1, -13), (7, -11.5)):
    canvas.stroke(curve((x - 1.6, y), (x, y + 1.4), (x + 1.6, y), points=5), shadow, 0.8, pose)


def _spikes(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  colour, shadow, _ = _tones(identity)
  width = identity.face_width
  angles = np.linspace(1.02 * np.pi, 1.98 * np.pi, 15)
  reach = np.where(np.arange(15) % 2, 1.28, 1.0)
  rim = np.stack([(width + 1) * np.cos(angles) * reach, -2 + 18 * np.sin(angles) * reach], -1)
  teeth = [(width - 0.5, -4), (12, -10), (8.5, -6.8), (4.5, -11.2), (0.5, -7.6), (-4, -11.5),
           (-8, -7), (-11.5, -10.4), (-width + 0.5, -4)]
  canvas.fill(np.concatenate([rim, teeth]), colour, pose)
  for x in (-8, 0, 8):
    canvas.stroke(np.array([(x, -12.5), (x * 1.12, -17)]), shadow, 0.9, pose)
  _gleam(canvas, identity, pose)


def _swept(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  width = identity.face_width
  line = ((width, -3), (11, -12.2), (0, -11.5), (-9, -8.2), (-width, -3))
  canvas.fill(_cap(identity, *line), _tones(identity)[0], pose)
  strand = curve((11, -12), (2, -14.2), (-8, -11.8), points=8)
  canvas.stroke(strand, _tones(identity)[1], 0.9, pose)
  _gleam(canvas, identity, pose)


def _long_back(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  width = identity.face_width + 3.2
  outline = np.concatenate([
    ellipse(0, -1, width, 21)[20:],
    [(width + 0.5, 10), (width - 1, 27), (-width + 1, 27), (-width - 0.5, 10)],
  ])
  canvas.fill(outline, _tones(identity)[1], pose)


def _parting(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  colour, shadow, _ = _tones(identity)
  width = identity.face_width
  for side in (-1, 1):
    lock = np.concatenate([
      curve((0, -22.2), (side * 12, -18.6), (side * (width + 1.6), -4)),
      curve((side * (width + 1.8), 14), (side * (width - 1.5), 8), (side * (width - 2.2), -4)),
      curve((side * (width - 3), -6), (side * 7, -11), (0, -13.4)),
    ])
    canvas.fill(lock, colour, pose)
  canvas.stroke(np.array([(0, -21.5), (0, -14)]), shadow, 0.9, pose)
  _gleam(canvas, identity, pose)


def _bun_back(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  canvas.fill(ellipse(0, -22, 8, 6.5), _tones(identity)[1], pose)
  canvas.fill(ellipse(0, -22.6, 7, 5.6), _tones(identity)[0], pose)


def _combed_back(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  width = identity.face_width
  canvas.fill(_cap(identity, (width, -2), (0, -12.8), (-width, -2)), _tones(identity)[0], pose)
  for x in (-7, 0, 7):
    line = curve((x * 1.25, -12.2), (x, -15.5), (x * 0.6, -20), points=6)
    canvas.stroke(line, _tones(identity)[1], 0.8, pose)
  _gleam(canvas, identity, pose)


def _tails_back(canvas: Canvas, identity: Identity, pose: Pose) -> None:
  colour, shadow, _ = _tones(identity)
  for side in (-1, 1):
    x = side * (identity.face_width + 4.2)
    canvas.fill(ellipse(x, 3.5, 4.8, 8.5), shadow, pose)
    canvas.fill(ellipse(x - side * 0.6, 2.8, 3.9, 7.4), colour, pose)
    canvas.fill(capsule((x - side * 2, -5.5), (x - side * 1, -3.5), 2.0), palette.INK, pose)


STYLES: MappingProxyType[str, tuple[Painter, Painter]] = MappingProxyType({
  "bob": (_round_back, _fringe),
  "curly": (_curls_back, _curls),
  "spiky": (_nothing, _spikes),
  "short": (_nothing, _swept),
  "long": (_long_back, _parting),
  "bun": (_bun_back, _combed_back),
  "pigtails": (_tails_back, _parting),
})
