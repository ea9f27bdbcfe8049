"""A plot of the curves of a clip as a picture, drawn with Pillow."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, PANEL = 1000, 190  # pixels
_LEFT, _TOP, _BOTTOM, _RIGHT = 70, 34, 26, 20
_INK, _GRID, _SHADE, _BORDER = (30, 30, 30), (215, 215, 215), (238, 230, 208), (200, 120, 20)
_COLOURS = {"red": (205, 60, 60), "green": (50, 150, 70), "blue": (60, 90, 205)}
Panel = tuple[str, dict[str, tuple[np.ndarray, tuple[int, int, int]]]]


def draw(metrics: dict[str, Any], overlaps: Sequence[tuple[int, int]] = ()) -> Image.Image:
  """Draws colour, luminance, sharpness and change over time.

  Args:
    metrics: from `clip_metrics.measure`.
    overlaps: as given to it; they are shaded, and their borders are lines.
  """
  curves = {name: np.array(values) for name, values in metrics["curves"].items()}
  seam = "" if metrics["largest_seam"] is None else f", largest seam {metrics['largest_seam']:.2f} x the median"
  return draw_panels([
      (f"mean colour (levels): drift {metrics['colour_drift']:.2f}",
       {name: (curves["colour"][:, index], ink) for index, (name, ink) in enumerate(_COLOURS.items())}),
      ("luminance (levels)", {"": (curves["luminance"], _INK)}),
      (f"sharpness (variance of the Laplacian): end / start {metrics['sharpness_ratio']:.3f}",
       {"": (curves["sharpness"], _INK)}),
      (f"change to the frame before (levels): median {metrics['median_change']:.2f}{seam}",
       {"": (curves["change"], _INK)})], metrics["fps"], overlaps)


def draw_panels(panels: Sequence[Panel], fps: float, overlaps: Sequence[tuple[int, int]] = ()) -> Image.Image:
  """Draws panels of curves over time, one below the other.

  Args:
    panels: (title, {name: (values [n], colour)}); the names are written in the first panel, in their colours.
    fps: values a second.
    overlaps: (first, first after) of the values that are shaded.
  """
  picture = Image.new("RGB", (WIDTH, PANEL * len(panels)), "white")
  drawing, font = ImageDraw.Draw(picture), ImageFont.load_default()
  for row, (title, lines) in enumerate(panels):
    _panel(drawing, font, row * PANEL, title, lines, overlaps, fps)
  x = WIDTH - _RIGHT
  for name, (_, ink) in reversed(panels[0][1].items()):
    x -= drawing.textlength(name, font=font) + 12
    drawing.text((x, 22), name, fill=ink, font=font)
  return picture


def _panel(drawing: ImageDraw.ImageDraw, font, top: int, title: str, lines: dict, overlaps: Sequence[tuple[int, int]],
           fps: float) -> None:
  """Draws one panel whose upper edge is at `top`."""
  upper, lower, right = top + _TOP, top + PANEL - _BOTTOM, WIDTH - _RIGHT
  values = np.concatenate([curve for curve, _ in lines.values()])
  frames = len(next(iter(lines.values()))[0])
  low, high = float(values.min()), float(values.max())
  low, high = (low, high) if high > low else (low - 1, high + 1)
  x = lambda frame: _LEFT + (right - _LEFT) * frame / max(frames - 1, 1)
  y = lambda value: lower - (lower - upper) * (value - low) / (high - low)
  drawing.text((_LEFT, top + 10), title, fill=_INK, font=font)
  for begin, end in overlaps:
    drawing.rectangle((x(begin), upper, x(end), lower), fill=_SHADE)
  for level in (low, (low + high) / 2, high):
    drawing.line((_LEFT, y(level), right, y(level)), fill=_GRID)
    drawing.text((8, y(level) - 5), f"{level:.4g}", fill=_INK, font=font)
  for begin, end in overlaps:
    for frame in {begin, end}:
      drawing.line((x(frame), upper, x(frame), lower), fill=_BORDER)
  for share in np.linspace(0, 1, 6):
    frame = share * (frames - 1)
    drawing.text((x(frame) - 8, lower + 6), f"{frame / fps:.3g} s", fill=_INK, font=font)
  for curve, ink in lines.values():
    points = [(x(frame), y(value)) for frame, value in enumerate(curve)]
    drawing.line(points, fill=ink, width=1) if len(points) > 1 else drawing.point(points, fill=ink)
