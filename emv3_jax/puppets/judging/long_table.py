"""What long clips show, summed up for each way in which they are made: a table and a plot."""

from collections.abc import Sequence
import colorsys

import numpy as np
from PIL import Image

from emv3_jax.geometry import FPS
from emv3_jax.metrics import intervals, lip_sync, plot
from emv3_jax.metrics.clip_metrics import Truth

SPAN = 5 * FPS  # frames of one value in the plot; shorter ones where a clip has less than four of them


def row(clip: dict) -> dict:
  """The figures of one long clip, without its curves.

  Args:
    clip: as `scripts/long_tiny.py` keeps it.
  """
  figures = clip["figures"]
  return {"puppet": clip["puppet"], "frames": figures["frames"], "r": figures["lip_sync"]["r"],
          "r_interval": intervals.of_median_r([truth_of(clip)]), "offset": figures["lip_sync"]["offset"],
          **{name: figures[name] for name in ("largest_seam", "sharpness_ratio", "colour_drift", "luminance")},
          "seam_by_chance": clip["seam_by_chance"], "seconds": clip["seconds"],
          "sentences": len(clip.get("sentences", ()))}


def truth_of(clip: dict) -> Truth:
  """The openings of the mouth."""
  return Truth(np.array(clip["seen"]), np.array(clip["true"]))


def summary(clips: Sequence[dict], short: Sequence[Sequence[dict]]) -> dict:
  """Sums the clips of one way up.

  Args:
    clips: long ones.
    short: short ones of the puppet of each.

  Returns:
    frames: of each clip; largest_seam: of all borders, over the median change of its clip; typical_seam: median over
    borders; seam_by_chance: what the largest would be without borders; sharpness_ratio, least_sharpness_ratio: median
    and least of the clips; colour_drift, short_colour_drift: means; r, short_r: medians of clips, with r_interval,
    short_r_interval of 90 %; luminance_step: mean absolute difference of inside and outside of overlaps;
    seconds: means of a clip: to make it, to judge it, and both of one processor.
  """
  of = lambda name: [clip["figures"][name] for clip in clips]
  ratios = [seam["ratio"] for seams in of("seams") for seam in seams]
  every = [clip for pieces in short for clip in pieces]
  steps = [abs(each["inside"] - each["outside"]) for each in of("luminance") if None not in each.values()]
  return {
      "frames": of("frames"), "largest_seam": max(ratios, default=None),
      "typical_seam": float(np.median(ratios)) if ratios else None,
      "seam_by_chance": max((clip["seam_by_chance"] for clip in clips if clip["seam_by_chance"]), default=None),
      "sharpness_ratio": float(np.median(of("sharpness_ratio"))), "least_sharpness_ratio": min(of("sharpness_ratio")),
      "colour_drift": float(np.mean(of("colour_drift"))),
      "short_colour_drift": float(np.mean([clip["figures"]["colour_drift"] for clip in every])),
      "r": _median_r(clips), "r_interval": intervals.of_median_r([truth_of(clip) for clip in clips]),
      "short_r": _median_r(every), "short_r_interval": intervals.of_median_r([truth_of(clip) for clip in every]),
      "luminance_step": float(np.mean(steps)) if steps else None,
      "seconds": {name: float(np.mean([clip["seconds"][name] for clip in clips])) for name in clips[0]["seconds"]}}


def _median_r(clips: Sequence[dict]) -> float:
  return float(np.median([clip["figures"]["lip_sync"]["r"] for clip in clips]))


def table(found: dict[str, dict]) -> str:
  """A Markdown table of `summary` by way."""
  lines = ["| | largest seam (by chance) | sharpness, end / start (least) | colour drift / short clips' | "
           "r (90 %) | r of short clips | processor s a clip |", "| --- " * 7 + "|"]
  number = lambda value, digits=2: "" if value is None else f"{value:.{digits}f}"
  interval = lambda pair: f"{pair[0]:.2f}-{pair[1]:.2f}"
  for name, each in found.items():
    lines.append(
        f"| `{name}` | {number(each['largest_seam'])} ({number(each['seam_by_chance'])}) | "
        f"{each['sharpness_ratio']:.2f} ({each['least_sharpness_ratio']:.2f}) | "
        f"{each['colour_drift']:.2f} / {each['short_colour_drift']:.2f} = "
        f"{each['colour_drift'] / max(each['short_colour_drift'], 1e-6):.1f} | "
        f"{each['r']:.3f} ({interval(each['r_interval'])}) | {each['short_r']:.3f} ({interval(each['short_r_interval'])}) | "
        f"{each['seconds']['of_processors']:.0f} |")
  return "\n".join(lines) + "\n"


def draw(clips: dict[str, list[dict]]) -> Image.Image:
  """Draws sharpness, colour and r over time, means over the clips of each way, a value for each SPAN frames.

  Args:
    clips: of one length, by way, as `scripts/long_tiny.py` keeps them.
  """
  span = _span(next(iter(clips.values()))[0]["figures"]["frames"])
  inks = {name: _ink(index, len(clips)) for index, name in enumerate(clips)}
  lines = lambda curve: {name: (np.mean([curve(clip) for clip in each], 0), inks[name]) for name, each in clips.items()}
  return plot.draw_panels([
      (f"sharpness over that of the first {span / FPS:.3g} s", lines(_sharpness)),
      (f"greatest change of a mean colour since the first {span / FPS:.3g} s (levels)", lines(_colour)),
      ("r of the mouth's opening", lines(_r))], FPS / span)


def _spans(curve: Sequence) -> list[np.ndarray]:
  """Cuts a curve into spans; what is left at the end belongs to the last one."""
  values = np.array(curve)
  span = _span(len(values))
  return np.split(values, np.arange(span, len(values) - span + 1, span))


def _span(frames: int) -> int:
  return min(SPAN, max(1, frames // 4))


def _sharpness(clip: dict) -> np.ndarray:
  means = np.array([span.mean() for span in _spans(clip["figures"]["curves"]["sharpness"])])
  return means / means[0]


def _colour(clip: dict) -> np.ndarray:
  means = np.stack([span.mean(0) for span in _spans(clip["figures"]["curves"]["colour"])])
  return np.abs(means - means[0]).max(1)


def _r(clip: dict) -> np.ndarray:
  pairs = zip(_spans(clip["seen"]), _spans(clip["true"]), strict=True)
  return np.array([lip_sync.in_time(lip_sync.lateness(seen, true)) for seen, true in pairs])


def _ink(index: int, count: int) -> tuple[int, int, int]:
  red, green, blue = (round(255 * level) for level in colorsys.hsv_to_rgb(index / count, 0.75, 0.7))
  return red, green, blue
