"""From a spec to pixels, sound and the truth about both."""

import dataclasses

import numpy as np

from emv3_jax.geometry import RATE
from emv3_jax.puppets.world import backdrop, face, hair, wardrobe
from emv3_jax.puppets.world.canvas import SIZE, Canvas, Pose
from emv3_jax.puppets.world.clips import ClipSpec, caption
from emv3_jax.puppets.world.motion import Motion, motion
from emv3_jax.puppets.world.sentences import SAMPLES_PER_FRAME, sentence, speech
from emv3_jax.puppets.world.voice import mouth_curve

# Tints that a colour drift ends in; none turns towards the colour of the mouth.
_DRIFT = np.array([(-36.0, 36.0, -32.0), (-44.0, 14.0, 46.0), (32.0, 30.0, -54.0)])


@dataclasses.dataclass(frozen=True)
class Truth:
  """What is to be seen in a clip.

  Attributes:
    opening: [frames] float32, the mouth's, 0 shut to 1.
    identity: name of the puppet.
    clothes, background: names of colours.
    garment, pattern: their kinds.
    fingers: how many are held up.
    gesture, flaw: as in the spec.
    face_box, mouth_box: [frames, 4] int32, pixels y1, y2, x1, x2 (ends excluded): the head from
      brow to chin and ear to ear; all that the mouth covers when it is wide open.
  """

  opening: np.ndarray
  identity: str
  clothes: str
  garment: str
  background: str
  pattern: str
  fingers: int
  gesture: str
  flaw: str
  face_box: np.ndarray
  mouth_box: np.ndarray


@dataclasses.dataclass(frozen=True)
class Clip:
  """A rendered clip.

  Attributes:
    frames: [F, 64, 64, 3] uint8, 25 a second.
    audio: [F * 640] float32 at 16 kHz.
    truth: what it shows.
    caption: what is said of it.
  """

  frames: np.ndarray
  audio: np.ndarray
  truth: Truth
  caption: str


def render_clip(spec: ClipSpec) -> Clip:
  """Draws a clip; the same spec always gives the same bytes.

  Raises:
    InputError: the spec names a sentence that does not ship.
  """
  audio, opening = _sound(spec)
  moves = motion(spec, opening)
  wall = backdrop.draw(spec.background, spec.pattern)
  frames = np.stack([_draw(spec, wall, moves, i, float(opening[i])) for i in range(spec.frames)])
  if spec.flaw == "colour drift":
    frames = _drift(frames, _DRIFT[spec.seed % len(_DRIFT)])
  truth = Truth(
    opening=opening, identity=spec.identity.name, clothes=spec.clothes, garment=spec.garment,
    background=spec.background, pattern=spec.pattern, fingers=spec.fingers, gesture=spec.gesture,
    flaw=spec.flaw,
    face_box=np.stack([_box(_head_outline(spec), pose) for pose in moves.head]),
    mouth_box=np.stack([_box(_mouth_outline(), pose) for pose in moves.head]))
  return Clip(frames, audio, truth, caption(spec))


def _sound(spec: ClipSpec) -> tuple[np.ndarray, np.ndarray]:
  """Samples [F * 640] and openings [F] of the clip's part of its sentence.

  The curve is taken over the whole sentence: a mouth that was open before the clip began is still
  open in its first frame.
  """
  frames = spec.frames
  if not spec.sentence:
    return np.zeros(frames * SAMPLES_PER_FRAME, np.float32), np.zeros(frames, np.float32)
  before = max(0, -spec.start)
  begin, length = spec.start + before, sentence(spec.sentence).frames
  after = max(0, begin + frames - length)
  whole = np.pad(speech(spec.sentence), (before * SAMPLES_PER_FRAME, after * SAMPLES_PER_FRAME))
  opening = mouth_curve(whole, RATE, len(whole) // SAMPLES_PER_FRAME)
  return (whole[begin * SAMPLES_PER_FRAME:(begin + frames) * SAMPLES_PER_FRAME],
          opening[begin:begin + frames])


def _draw(spec: ClipSpec, wall: np.ndarray, moves: Motion, i: int, opening: float) -> np.ndarray:
  canvas, head, hand = Canvas(wall), moves.head[i], moves.hand[i]
  hair.behind(canvas, spec.identity, head)
  wardrobe.draw_body(canvas, spec.identity, spec.clothes, spec.garment)
  face.draw_head(canvas, spec.identity, opening, head)
  face.draw_features(canvas, spec.identity, opening, float(moves.blink[i]), tuple(moves.gaze[i]),
                     head)
  hair.in_front(canvas, spec.identity, head)
  face.draw_accessory(canvas, spec.identity, head)
  wardrobe.draw_sleeve(canvas, spec.clothes, hand)
  wardrobe.draw_hand(canvas, spec.fingers, hand)
  return canvas.picture()


def _drift(frames: np.ndarray, change: np.ndarray) -> np.ndarray:
  """Adds a growing tint, `change` (red, green, blue) at the last frame."""
  share = np.linspace(0, 1, len(frames))[:, None, None, None]
  return np.clip(np.rint(frames + share * change), 0, 255).astype(np.uint8)


def _head_outline(spec: ClipSpec) -> np.ndarray:
  width, top, chin = spec.identity.face_width + 2, -10.0, face.HEAD_HEIGHT + face.JAW_DROP
  return np.array([(-width, top), (width, top), (width, chin), (-width, chin)])


def _mouth_outline() -> np.ndarray:
  upper, lower = face.mouth_outline(1.0)
  return np.concatenate([upper - (0, 1), lower + (0, 1)])


def _box(outline: np.ndarray, pose: Pose) -> np.ndarray:
  """The smallest box of whole pixels around `outline`, [4] int32, within the picture."""
  points = pose.place(outline)
  low, high = np.floor(points.min(0)), np.ceil(points.max(0))
  return np.clip((low[1], high[1], low[0], high[0]), 0, SIZE).astype(np.int32)
