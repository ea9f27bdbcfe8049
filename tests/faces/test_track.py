"""Tracks from made detections: centre, size and noise are known."""

import numpy as np
import pytest

from emv3_jax.faces import track

FPS = 25.0


def box(y, x, size=40.0) -> np.ndarray:
  y, x, size = np.broadcast_arrays(y, x, size)
  return np.stack([y - 0.6 * size, y + 0.6 * size, x - 0.5 * size, x + 0.5 * size], axis=-1).astype(float)


def centres(boxes) -> np.ndarray:
  return np.stack([boxes[:, 0] + boxes[:, 1], boxes[:, 2] + boxes[:, 3]], axis=1) / 2


T = np.arange(60)


def test_steady_motion_is_followed_without_lag():
  boxes = box(100 + 2 * T, 50 + 3.0 * T, 40 + 0.5 * T)
  found = track.follow(list(boxes[:, None]), FPS)
  np.testing.assert_allclose(found.boxes, boxes, atol=1e-6)
  assert found.found.all() and found.bridged == found.lost == found.jumps == () and found.others == 0


def test_jitter_is_smoothed_and_a_nod_is_kept():
  rng, nod = np.random.default_rng(0), 100 + 12 * np.sin(2 * np.pi * T / FPS)  # once a second
  noisy = box(nod, 80.0 + 0 * T) + rng.normal(0, 2, (60, 1)) * [1, 1, 0, 0]
  noisy[30] += 25  # a wrong box
  got = centres(track.follow(list(noisy[:, None]), FPS).boxes)[:, 0]
  before = np.delete(centres(noisy)[:, 0] - nod, 30)
  assert np.std(np.delete(got - nod, 30)) < 0.75 * np.std(before) and np.abs(got - nod).max() < 5
  assert np.std(np.diff(got, 2)) < 0.35 * np.std(np.diff(np.delete(centres(noisy)[:, 0], 30), 2))
  smooth = centres(track.follow(list(box(nod, 80.0 + 0 * T)[:, None]), FPS).boxes)[:, 0]
  shifts = [np.abs(smooth[5:-5] - nod[5 + lag:len(nod) - 5 + lag]).mean() for lag in (-1, 0, 1)]
  assert shifts[1] < 0.25 < min(shifts[0], shifts[2])


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("order", [1, -1])
def test_two_faces_that_cross_keep_their_identities(hidden, order):
  """The main one is a tenth larger; while one hides the other only one is found."""
  main, other = box(100, 20 + 4.0 * T, 44), box(104, 256 - 4.0 * T, 40)
  detections = []
  for i in range(60):
    close = abs(centres(main)[i, 1] - centres(other)[i, 1]) < 4 * hidden
    detections.append(main[i][None] if close else np.stack([main[i], other[i]])[::order])
  found = track.follow(detections, FPS)
  np.testing.assert_allclose(centres(found.boxes), centres(main), atol=3)
  assert found.others == 1 and found.lost == () and found.jumps == ()


def test_the_main_face_may_be_the_one_that_is_hidden():
  main, other = box(100, 20 + 4.0 * T, 44), box(100, 256 - 4.0 * T, 42)
  close = np.abs(centres(main) - centres(other))[:, 1] < 24
  detections = [other[i][None] if close[i] else np.stack([other[i], main[i]]) for i in range(60)]
  found = track.follow(detections, FPS)
  np.testing.assert_allclose(centres(found.boxes), centres(main), atol=6)
  np.testing.assert_array_equal(centres(found.boxes)[:, 1] > 138, T > 29)


def test_a_short_gap_is_bridged_and_a_long_one_is_lost():
  boxes = box(100 + 1.0 * T, 80)
  gone = [boxes[i][None] if not 20 <= i < 30 else np.zeros((0, 4)) for i in T]
  found = track.follow(gone, FPS)
  assert found.bridged == ((20, 30),) and found.lost == () and found.found.sum() == 50
  np.testing.assert_allclose(found.boxes, boxes, atol=1e-6)
  found = track.follow(gone, FPS, max_gap=0.36)
  assert found.lost == ((20, 30),) and found.bridged == ()
  assert track.follow(gone, FPS, max_gap=0.4).lost == ()


def test_a_face_that_is_lost_for_good_is_told_and_held():
  boxes = box(100, 80 + 1.0 * T)
  found = track.follow([boxes[i][None] if i < 30 else np.zeros((0, 4)) for i in T], FPS)
  assert found.lost == ((30, 60),) and found.bridged == ()
  np.testing.assert_allclose(found.boxes[30:], np.broadcast_to(boxes[29], (30, 4)), atol=1e-6)
  late = track.follow([boxes[i][None] if i >= 10 else np.zeros((0, 4)) for i in T], FPS)
  assert late.bridged == ((0, 10),) and late.lost == ()


@pytest.mark.parametrize("count", [0, 3])
def test_no_face_at_all(count):
  found = track.follow([np.zeros((0, 4))] * count, FPS)
  assert found.boxes.shape == (count, 4) and not found.found.any()
  assert found.lost == (((0, 3),) if count else ())


def test_boxes_of_some_frames_are_enough():
  """Nobody looked at the others, so that nothing was lost."""
  boxes = box(100 + 1.0 * T, 80)
  some = [boxes[i][None] if i in (0, 40, 59) else None for i in T]
  found = track.follow(some, FPS)
  np.testing.assert_allclose(found.boxes, boxes, atol=1e-6)
  assert found.bridged == found.lost == () and found.found.sum() == 3
  missed = track.follow([None if i % 5 else boxes[i][None] if i != 20 else np.zeros((0, 4)) for i in T], FPS)
  assert missed.bridged == ((16, 25),) and missed.lost == ()


def test_a_cut_is_told_and_not_smoothed_over():
  boxes = np.where(T[:, None] < 30, box(100, 60 + 0 * T), box(180, 300 + 0 * T))
  found = track.follow(list(boxes[:, None]), FPS)
  assert found.jumps == (30,) and found.lost == () and found.others == 0
  np.testing.assert_allclose(found.boxes, boxes, atol=1e-6)


def test_pairs_have_the_least_sum():
  """The nearest pair alone would leave a bad one; what is too far does not matter."""
  assert sorted(track.assign(np.array([[0.1, 0.3], [0.2, 0.9]]))) == [(0, 1), (1, 0)]
  assert sorted(track.assign(np.array([[0.5, 9.0, 0.4], [0.4, 50.0, 0.9]]))) == [(0, 2), (1, 0)]
  rng = np.random.default_rng(0)
  for shape in ((3, 4), (4, 3), (4, 4)):
    costs = rng.uniform(0, 2, shape)
    pairs = track.assign(costs)
    assert len(pairs) == 3 + (shape == (4, 4)) and len({row for row, _ in pairs}) == len(pairs)
    assert len({column for _, column in pairs}) == len(pairs)


def test_a_parabola_stays_as_it_is():
  curve = 3 + 2 * T - 0.1 * T ** 2
  np.testing.assert_allclose(track._filtered(curve, FPS), curve)
  for count in range(1, 8):
    np.testing.assert_allclose(track._filtered(curve[:count], FPS), curve[:count])


def test_a_passer_by_is_not_followed():
  """A larger face that is there for ten frames, and false finds of one frame."""
  main = box(100, 80 + 0 * T)
  detections = [np.stack([main[i], box(90, 20 + 20 * (i - 20), 60)]) if 20 <= i < 30 else main[i][None] for i in T]
  detections[5] = np.stack([main[5], box(20, 250, 20)])
  found = track.follow(detections, FPS)
  np.testing.assert_allclose(found.boxes, main, atol=2)
  assert found.others == 1
