"""Drift, seams and luminance of clips whose figures are known."""

import json

import numpy as np
import pytest

from emv3_jax.metrics import clip_metrics, plot
from emv3_jax.metrics.frame_curves import FrameCurves


def curves_of(frames):
  """Of frames that come in groups of uneven sizes."""
  found = FrameCurves()
  for group in np.split(frames, [1, 5, 6]):
    found.observe(group)
  return found.curves()


def moving(frames: int = 16) -> np.ndarray:
  """Noise that changes by 4 levels a frame."""
  noise = np.random.default_rng(0).integers(40, 200, (12, 16, 3)).astype(np.int64)
  return (noise + 4 * (np.arange(frames) % 2)[:, None, None, None]).astype(np.uint8)


def test_curves_are_of_each_frame():
  frames = moving()
  found = curves_of(frames)
  assert len(found) == 16
  np.testing.assert_allclose(found.colour, frames.mean((1, 2)), rtol=1e-5)
  np.testing.assert_allclose(found.luminance, (frames @ [0.2126, 0.7152, 0.0722]).mean((1, 2)), rtol=1e-5)
  np.testing.assert_allclose(found.change, [0] + [4] * 15, rtol=1e-5)


def test_sharpness_is_the_variance_of_the_laplacian():
  """A chessboard of 0 and 100: the Laplacian is 400 or -400."""
  board = 100 * (np.indices((8, 10)).sum(0) % 2)
  found = curves_of(np.repeat(board[None, :, :, None], 3, axis=3).astype(np.uint8).repeat(8, axis=0))
  np.testing.assert_allclose(found.sharpness, 400 ** 2, rtol=1e-4)


def test_drift_is_between_the_ends():
  frames = moving()
  still = clip_metrics.measure(curves_of(frames))
  assert still["ends"] == 4 and still["colour_drift"] < 1e-3 and still["sharpness_ratio"] == pytest.approx(1)
  later = frames.copy()
  later[12:, ..., 2] -= 10  # the last four frames turn yellow
  assert clip_metrics.measure(curves_of(later))["colour_drift"] == pytest.approx(10, abs=1e-3)
  flat = frames.copy()
  flat[12:] = frames.mean((1, 2), keepdims=True)[12:]
  assert clip_metrics.measure(curves_of(flat))["sharpness_ratio"] < 1e-6


def test_seams_are_held_to_the_usual_change():
  frames = moving()
  frames[9:] += 20  # 24 or 16 instead of 4
  found = clip_metrics.measure(curves_of(frames), [(5, 9)], fps=25)
  assert [(seam["frame"], seam["seconds"]) for seam in found["seams"]] == [(5, 0.2), (9, 0.36)]
  assert [seam["ratio"] for seam in found["seams"]] == pytest.approx([1, 6]) and found["largest_seam"] == pytest.approx(6)
  assert clip_metrics.measure(curves_of(frames))["largest_seam"] is None
  still = clip_metrics.measure(curves_of(np.zeros((16, 4, 4, 3), np.uint8)), [(8, 8)])
  assert still["largest_seam"] == 0 and still["sharpness_ratio"] == 1 and still["luminance"]["inside"] is None


def test_luminance_inside_and_outside_overlaps():
  frames = np.full((16, 4, 4, 3), 100, np.uint8)
  frames[5:9] = 90
  found = clip_metrics.measure(curves_of(frames), [(5, 9)])
  assert found["luminance"] == pytest.approx({"inside": 90, "outside": 100}, abs=1e-3)


def test_lips_are_late_by_two_frames():
  true = np.sin(np.arange(40))
  truth = clip_metrics.Truth(np.roll(true, 2), true)
  found = clip_metrics.measure(curves_of(np.zeros((40, 4, 4, 3), np.uint8)), truth=truth)["lip_sync"]
  assert found["offset"] == 2 and found["r"] < 0.9
  with pytest.raises(ValueError, match="40 frames are compared with 40; the clip has 16"):
    clip_metrics.measure(curves_of(moving()), truth=truth)


def test_overlaps_lie_in_the_clip():
  for overlap in ((0, 2), (5, 16), (9, 8)):
    with pytest.raises(ValueError, match="does not lie within the 16 frames"):
      clip_metrics.measure(curves_of(moving()), [overlap])


def test_the_plot_shows_where_windows_meet():
  found = clip_metrics.measure(curves_of(moving()), [(5, 9)])
  json.dumps(found, allow_nan=False)
  plain, shaded = (np.asarray(plot.draw(found, overlaps)) for overlaps in ((), [(5, 9)]))
  assert plain.shape == shaded.shape == (4 * plot.PANEL, plot.WIDTH, 3)
  columns = np.flatnonzero((plain != shaded).any((0, 2)))
  width = plot.WIDTH - 90
  assert [round((column - 70) / width * 15) for column in (columns.min(), columns.max())] == [5, 9]
  one = clip_metrics.measure(curves_of(moving(1)))
  assert plot.draw(one).size == (plot.WIDTH, 4 * plot.PANEL)
