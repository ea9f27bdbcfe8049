"""Telling gestures: which part of the puppet moves in the time of a gesture, and how far?

`motion` moves one part by a sine of 1.2 to 1.7 beats a second; sway is slower. The head's moves are
found by registration: the turn about the neck and the shift that lay the first frame's face over
the present one's (Gauss-Newton on grey levels, each frame from where the one before it ended).
"""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from emv3_jax.geometry import FPS
from emv3_jax.puppets.world.motion import HEAD, NECK
from emv3_jax.puppets.world.read_hand import Hand

CALM = "stays calm"
# What a gesture moves, and the amplitude that it is drawn with: degrees and pixels.
AMPLITUDES = {"waves": 17.0, "lifts a hand": 2.5, "nods": 1.7, "shakes the head": 2.0,
              "tilts the head": 6.0}
LEAST = 0.5  # of that amplitude; less is calm
_RATES = np.arange(1.15, 1.76, 0.05)  # beats a second
_SLOW = 4  # degree of the polynomial that takes up sway
_FACE = (slice(8, 35), slice(18, 47))  # fringe, eyes and nose, not the mouth
_BLUR = 1.0
_ROUNDS = 6
_CAREFUL = np.diag([1.0, 1.0, 100.0])  # keeps a face without features where it was
_OUTLIER = 15.0  # grey levels from which on a pixel counts less: an eye that blinks


def name_gesture(video: np.ndarray, hand: Hand) -> str:
  """The one of `clips.GESTURES` that is seen: what moves most for its kind, if it moves by half of
  what is drawn.

  Args:
    video: [F, 64, 64, 3] float32 in 0..255.
    hand: found in it.
  """
  beats = measure(video, hand)
  name = max(beats, key=lambda name: beats[name])
  return name if beats[name] >= LEAST else CALM


def measure(video: np.ndarray, hand: Hand) -> dict[str, float]:
  """By gesture, the amplitude of what it moves over the amplitude that it is drawn with."""
  head = head_pose(video)
  tracks = {"waves": np.degrees(hand.lean), "lifts a hand": hand.place[:, 1], "nods": head[:, 1],
            "shakes the head": head[:, 0], "tilts the head": np.degrees(head[:, 2])}
  return {name: _amplitude(track) / AMPLITUDES[name] for name, track in tracks.items()}


def head_pose(video: np.ndarray) -> np.ndarray:
  """Shift (x, y) in pixels and turn in radians about the neck since the first frame, [F, 3]."""
  grey = gaussian_filter(video.mean(-1), (0, _BLUR, _BLUR))
  y, x = (axis.astype(np.float64).ravel() for axis in np.mgrid[_FACE])
  pivot_x, pivot_y = HEAD[0] + NECK[0], HEAD[1] + NECK[1]
  off_x, off_y = x - pivot_x, y - pivot_y
  slope_y, slope_x = (slope[_FACE].ravel() for slope in np.gradient(grey[0]))
  first = grey[0][_FACE].ravel()
  change = np.stack([slope_x, slope_y, slope_y * off_x - slope_x * off_y], -1)
  pose, poses = np.zeros(3), []
  for frame in grey:
    for _ in range(_ROUNDS):
      cos, sin = np.cos(pose[2]), np.sin(pose[2])
      at = (pivot_y + pose[1] + sin * off_x + cos * off_y,
            pivot_x + pose[0] + cos * off_x - sin * off_y)
      error = map_coordinates(frame, at, order=1, mode="nearest") - first
      weighted = change / np.maximum(1, np.abs(error) / _OUTLIER)[:, None]
      pose = pose - np.linalg.solve(weighted.T @ change + _CAREFUL, weighted.T @ error)
    poses.append(pose)
  return np.stack(poses)


def _amplitude(track: np.ndarray) -> float:
  """The greatest amplitude of a sine at a gesture's rate in a track [F], beside a slow wander."""
  if len(track) < FPS:
    return 0.0
  seconds = np.arange(len(track)) / FPS
  slow = np.polynomial.legendre.legvander(np.linspace(-1, 1, len(track)), _SLOW)
  found = []
  for rate in _RATES:
    phase = 2 * np.pi * rate * seconds
    terms = np.column_stack([slow, np.sin(phase), np.cos(phase)])
    found.append(np.hypot(*np.linalg.lstsq(terms, track, rcond=None)[0][-2:]))
  return float(max(found))
