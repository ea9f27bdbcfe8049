"""The truth of this world, read back from pixels alone: from renders, files or a model's videos.

Every reader takes a video [F, 64, 64, 3] uint8 and knows only how puppets are drawn, so that it can
judge what a model has made. They stand mild blur, noise and lossy compression.
"""

import dataclasses
import functools

import numpy as np
from scipy.ndimage import binary_dilation, label, uniform_filter

from emv3_jax.errors import InputError
from emv3_jax.puppets.world import backdrop, palette
from emv3_jax.puppets.world.canvas import SIZE, Canvas
from emv3_jax.puppets.world.face import mouth_area
from emv3_jax.puppets.world.identities import BY_NAME
from emv3_jax.puppets.world.read_gesture import name_gesture
from emv3_jax.puppets.world.read_hand import Hand, find_hand

# Windows in which a colour is found wherever the puppet may have moved to: rows, columns.
_SKIN = (slice(28, 33), slice(25, 39))  # between the eyes and the mouth
_HAIR = (slice(9, 13), slice(27, 37))  # on the crown
_CLOTHES = (slice(59, 64), slice(25, 39))  # on the chest
_WALL = (slice(0, 24), np.r_[0:6, SIZE - 6:SIZE])  # beside the head
_MOUTH = (slice(31, 50), slice(18, 46))  # all that a mouth may reach


@dataclasses.dataclass(frozen=True)
class Colours:
  """Medians within fixed windows, each [F, 3] float32 in 0..255: what a puppet seems to have."""

  skin: np.ndarray
  hair: np.ndarray
  clothes: np.ndarray
  background: np.ndarray


@dataclasses.dataclass(frozen=True)
class Reading:
  """What a video shows.

  Attributes:
    opening: [F] float32, the mouth's.
    fingers: how many the hand holds up over the clip, 0 if there is no hand.
    identity: name of the most similar puppet.
    clothes, background, pattern: names of the most similar ones.
    flaw: the name of a flaw, or "".
    colours: as measured.
  """

  opening: np.ndarray
  fingers: int
  identity: str
  clothes: str
  background: str
  pattern: str
  flaw: str
  colours: Colours


def read(video: np.ndarray) -> Reading:
  """All readers at once.

  Raises:
    InputError: not [F, 64, 64, 3] uint8.
  """
  shown = _most(fingers(video))
  wall, pattern = background(video)
  if shown > 4:
    flaw = "six fingers"
  elif drift(video) > 20:
    flaw = "colour drift"
  elif jerk(video) > 0.8:
    flaw = "jerky motion"
  else:
    flaw = ""
  return Reading(opening(video), shown, identity(video), clothes(video), wall, pattern, flaw,
                 colours(video))


def colours(video: np.ndarray) -> Colours:
  """The colours of skin, hair, clothes and wall in each frame, a drift included."""
  video = _checked(video)
  return Colours(*(_median(video, window) for window in (_SKIN, _HAIR, _CLOTHES, _WALL)))


def opening(video: np.ndarray) -> np.ndarray:
  """How far the mouth is open in each frame, [F] float32, 0 shut to 1.

  A pixel's share of `palette.MOUTH` is its projection on the part of that colour which the skin, lit
  or shaded, does not have; lips, chin and neck are shades of skin and count nothing. The shares
  within two pixels of the mouth, over the area of a mouth wide open, are the opening.
  """
  video = _steadied(video)
  skin = np.median(video[:, _SKIN[0], _SKIN[1]], (0, 1, 2))
  mouth = np.asarray(palette.MOUTH, np.float32)
  probe = mouth - mouth @ skin / max(skin @ skin, 1) * skin
  shares = video[:, _MOUTH[0], _MOUTH[1]] @ (probe / max(probe @ mouth, 1))
  total = [np.clip(share, -0.3, 1.3)[_mouth_region(share)].sum() for share in shares]
  return np.clip(np.array(total) / mouth_area(), 0, 1).astype(np.float32)


def _mouth_region(share: np.ndarray) -> np.ndarray:
  """Where the mouth is, and two pixels around it, in shares of its colour [h, w]: bool [h, w].

  It is the one connected patch about the greatest share. Averages over 3 x 5 pixels, wide as mouths
  are, decide; they drown noise but keep a mouth that is open by a twentieth.
  """
  # scipy's hints take the default for the type.
  calm = uniform_filter(share, (3, 5), mode="constant")  # pyright: ignore[reportArgumentType]
  inner = calm[1:-5, 4:-4]
  if inner.max() < 0.16:
    return np.zeros(share.shape, bool)
  row, column = divmod(int(inner.argmax()), inner.shape[1])
  # scipy's hints take the number of patches for all.
  patches, _ = label(calm > max(0.15, 0.35 * inner.max()))  # pyright: ignore[reportGeneralTypeIssues]
  return binary_dilation(patches == patches[row + 1, column + 4], np.ones((3, 3)), 2)


def fingers(video: np.ndarray) -> np.ndarray:
  """How many fingers are held up in each frame, [F] int64, 1 to 6; 0 where there is no hand."""
  return hand(video).fingers


def hand(video: np.ndarray) -> Hand:
  """The hand in each frame."""
  return find_hand(_steadied(video))


def gesture(video: np.ndarray, seen: Hand | None = None) -> str:
  """The one of `clips.GESTURES` that the clip shows; it takes a second or more to tell.

  Args:
    video: [F, 64, 64, 3] uint8.
    seen: its hand, where that was found already.
  """
  return name_gesture(_steadied(video), hand(video) if seen is None else seen)


def identity(video: np.ndarray) -> str:
  """The puppet that most frames resemble in skin and hair."""
  video, names = _steadied(video), tuple(BY_NAME)
  known = np.array([palette.SKIN[BY_NAME[name].skin] + palette.HAIR[BY_NAME[name].hair]
                    for name in names], np.float32)
  seen = np.concatenate([_median(video, _SKIN), _median(video, _HAIR)], -1)
  return _nearest(seen, names, known)


def clothes(video: np.ndarray) -> str:
  """The colour of the clothes in most frames."""
  known = np.array(list(palette.CLOTHES.values()), np.float32)
  return _nearest(_median(_steadied(video), _CLOTHES), tuple(palette.CLOTHES), known)


def background(video: np.ndarray) -> tuple[str, str]:
  """Colour and pattern of the wall in most frames: it is compared with every wall there is."""
  names, known = _walls()
  return _nearest(_steadied(video)[:, _WALL[0], _WALL[1]].reshape(len(video), -1), names, known)


def wall_error(video: np.ndarray, colour: str, pattern: str) -> float:
  """Mean absolute difference, 0..255, of what is seen beside the head and a wall that is known."""
  known = Canvas(backdrop.draw(colour, pattern)).picture()[_WALL[0], _WALL[1]]
  return float(np.abs(_checked(video)[:, _WALL[0], _WALL[1]] - known.astype(np.float32)).mean())


def drift(video: np.ndarray) -> float:
  """By how much the wall's mean colour changes over the clip: the greatest channel's, 0..255."""
  wall = _checked(video)[:, _WALL[0], _WALL[1]].mean((1, 2))
  quarter = max(1, len(wall) // 4)
  return float(np.abs(wall[-quarter:].mean(0) - wall[:quarter].mean(0)).max())


def head_track(video: np.ndarray) -> np.ndarray:
  """Where the head is in each frame, up to a constant: [F, 2] float32 (x, y) in pixels."""
  wall = Canvas(backdrop.draw(*background(video))).picture()
  covered = np.abs(_steadied(video) - wall).mean(-1).clip(0, 40) / 40
  crown = covered[:, 2:26]
  x = np.einsum("fyx,x->f", crown, np.arange(SIZE)) / np.maximum(crown.sum((1, 2)), 1)
  y = -covered[:, :26, 27:37].sum(1).mean(1)
  return np.stack([x, y], -1).astype(np.float32)


def jerk(video: np.ndarray) -> float:
  """How unevenly the head moves: its track's mean absolute second difference, pixels a frame^2."""
  if len(video) < 3:
    return 0.0
  return float(np.abs(np.diff(head_track(video), 2, axis=0)).mean())


def _checked(video: np.ndarray) -> np.ndarray:
  video = np.asarray(video)
  if video.dtype != np.uint8 or video.ndim != 4 or video.shape[1:] != (SIZE, SIZE, 3):
    raise InputError(f"a puppet's video is uint8 [frames, {SIZE}, {SIZE}, 3]: "
                     f"got {video.dtype} {list(video.shape)}")
  return video


def _steadied(video: np.ndarray) -> np.ndarray:
  """The video as float32, without the tint that its wall takes on after the first frame."""
  video = _checked(video).astype(np.float32)
  wall = video[:, _WALL[0], _WALL[1]].mean((1, 2))
  return video - (wall - wall[:1])[:, None, None]


def _median(video: np.ndarray, window: tuple) -> np.ndarray:
  return np.median(video[:, window[0], window[1]], (1, 2)).astype(np.float32)


def _nearest(seen: np.ndarray, names: tuple, known: np.ndarray):
  """The name whose colours `known` [n, c] are nearest to `seen` [F, c] in most frames."""
  distance = np.abs(seen[:, None] - known).mean(-1)
  return names[_most(distance.argmin(1))]


def _most(votes: np.ndarray) -> int:
  return int(np.bincount(votes).argmax())


@functools.cache
def _walls() -> tuple[tuple[tuple[str, str], ...], np.ndarray]:
  """All (colour, pattern) and what they look like in the window, [40, pixels * 3] float32."""
  names = tuple((colour, pattern) for colour in palette.BACKGROUND for pattern in backdrop.PATTERNS)
  pictures = [Canvas(backdrop.draw(*name)).picture()[_WALL[0], _WALL[1]] for name in names]
  return names, np.stack(pictures).reshape(len(names), -1).astype(np.float32)
