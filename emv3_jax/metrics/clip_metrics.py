"""Figures of one clip: drift over its length, seams where windows meet, synchrony of the lips."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from emv3_jax.metrics import lip_sync
from emv3_jax.metrics.frame_curves import Curves

END = 50  # frames that are averaged at each end of a clip: two seconds, at most a quarter of the clip
LEAST_CHANGE = 0.05  # levels; a clip that moves less counts as moving so much

Overlap = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Truth:
  """The opening of the mouth in each frame, in any unit.

  Attributes:
    seen: [F], read from the frames.
    true: [F], as it should be.
  """

  seen: np.ndarray
  true: np.ndarray


def measure(curves: Curves, overlaps: Sequence[Overlap] = (), fps: float = 25, truth: Truth | None = None
            ) -> dict[str, Any]:
  """Computes the figures of a clip.

  Args:
    curves: of its frames.
    overlaps: (first frame, first frame after) of what two windows share, in order; the two are equal where
      windows meet without overlap.
    fps: frames a second.
    truth: of the lips, where it is known.

  Returns:
    What can be written as JSON. Colours and changes are levels of 0..255.
    frames, fps, ends: length of the clip, and the number of frames that are averaged at each end of it;
    colour_drift: greatest difference of a mean colour between both ends;
    sharpness_ratio: sharpness at the end over that at the beginning;
    median_change: of a frame to the one before;
    seams: at each border of an overlap `frame`, `seconds`, `change` from the frame before, and `ratio` of it to the
      median; largest_seam: the greatest ratio, None without borders;
    luminance: mean `inside` and `outside` of overlaps, None where there are no such frames;
    lip_sync: with a truth `r`, the best within 1 frame, and `offset`, frames by which the mouth is late at the
      best r within 5; None without;
    curves: colour, luminance, sharpness and change of each frame.

  Raises:
    ValueError: an overlap does not lie in the clip, or the truth has another length.
  """
  frames = len(curves)
  for begin, end in overlaps:
    if not 0 < begin <= end < frames:
      raise ValueError(f"Overlap {begin}..{end} does not lie within the {frames} frames of the clip.")
  ends = min(END, max(1, frames // 4))
  change = lambda curve: curve[-ends:].mean(0) - curve[:ends].mean(0)
  median = float(np.median(curves.change[1:])) if frames > 1 else 0.0
  borders = sorted({frame for overlap in overlaps for frame in overlap})
  seams = [{"frame": frame, "seconds": round(frame / fps, 3), "change": float(curves.change[frame]),
            "ratio": float(curves.change[frame]) / max(median, LEAST_CHANGE)} for frame in borders]
  inside = np.zeros(frames, bool)
  for begin, end in overlaps:
    inside[begin:end] = True
  mean = lambda chosen: float(curves.luminance[chosen].mean()) if chosen.any() else None
  return {
      "frames": frames, "fps": fps, "ends": ends,
      "colour_drift": float(np.abs(change(curves.colour)).max()),
      "sharpness_ratio": _ratio(curves.sharpness[-ends:].mean(), curves.sharpness[:ends].mean()),
      "median_change": median, "seams": seams,
      "largest_seam": max((seam["ratio"] for seam in seams), default=None),
      "luminance": {"inside": mean(inside), "outside": mean(~inside)},
      "lip_sync": None if truth is None else _lip_sync(truth, frames),
      "curves": {field.name: np.round(getattr(curves, field.name), 4).tolist()
                 for field in dataclasses.fields(curves)}}


def _ratio(end: float, start: float) -> float:
  """Pictures without any edge at the beginning count as sharp as those at the end."""
  return float(end / start) if start else 1.0


def _lip_sync(truth: Truth, frames: int) -> dict[str, float | int]:
  if not len(truth.seen) == len(truth.true) == frames:
    raise ValueError(f"The lips of {len(truth.seen)} frames are compared with {len(truth.true)}; the clip has {frames}.")
  late = lip_sync.lateness(truth.seen, truth.true)
  return {"r": lip_sync.in_time(late), "offset": int(np.argmax(late)) - lip_sync.FAR}
