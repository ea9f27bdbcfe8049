"""The face of a video: the portrait of tests/faces, moved over a background."""

import numpy as np
import pytest

from emv3_jax.conditioning import face, face_track
from emv3_jax.errors import InputError
from tests.faces.conftest import FACE, read_astronaut

F = 21


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
  return read_astronaut()[32:224, 32:224]


def film(portrait, lefts, tops, hidden=()) -> list[np.ndarray]:
  """The portrait at these places over a moving background of 256 x 480."""
  y, x = np.mgrid[:256, :480]
  frames = []
  for number, (left, top) in enumerate(zip(lefts, tops, strict=True)):
    stripes = (128 + 60 * np.sin((x + 3 * number) / 9) * np.cos(y / 14)).astype(np.uint8)
    frame = np.repeat(stripes[..., None], 3, axis=2)
    if number not in hidden:
      part = frame[max(top, 0):top + 192, left:left + 192]
      part[:] = portrait[max(-top, 0):, :part.shape[1]][:part.shape[0]]
    frames.append(frame)
  return frames


def test_a_face_that_moves_over_a_background(portrait):
  lefts = np.linspace(0, 280, F).astype(int)
  boxes, report = face_track.track(film(portrait, lefts, [40] * F), every=4)
  y1, y2, x1, x2 = np.array(FACE) - 32
  assert boxes.shape == (F, 4) and boxes.dtype.kind == "i" and report.is_plain
  np.testing.assert_allclose(boxes[:, 2:].mean(1), lefts + (x1 + x2) / 2, atol=5)
  np.testing.assert_allclose(boxes[:, :2].mean(1), np.full(F, 40 + (y1 + y2) / 2), atol=8)
  assert str(report) == "face found in 6 of 6 pictures that were looked at"
  report.check("film.mp4")


def test_what_is_bridged_is_told(portrait):
  boxes, report = face_track.track(film(portrait, [100] * F, [40] * F, hidden=range(7, 10)), every=2)
  assert report.bridged == ((7, 10),) and report.lost == () and report.found == 10
  assert str(report).endswith("10 of 11 pictures that were looked at; bridged: frames 7-9")
  assert np.ptp(boxes, axis=0).max() <= 3
  report.check("film.mp4")


def found(*spans, frames=80) -> list[np.ndarray]:
  box = np.array([[40.0, 100, 60, 110]])
  return [box if any(first <= number < end for first, end in spans) else box[:0] for number in range(frames)]


@pytest.mark.parametrize("spans, said", [
    (((0, 40),), "The face is lost in film.mp4 in frames 40-79; at most 1 s are bridged"),
    (((0, 20), (50, 80)), "lost in film.mp4 in frames 20-49;"),
    ((), r"No face found in film.mp4: 80 of its 80 pictures \(200x120\) were searched")])
def test_a_lost_face_is_an_error(spans, said):
  _, report = face_track.join(found(*spans), (120, 200))
  with pytest.raises(face.NoFace, match=said) as caught:
    report.check("film.mp4")
  assert isinstance(caught.value, InputError) and caught.value.size == (120, 200)
  assert "--face_box" in str(caught.value)


def test_a_mouth_that_leaves_the_picture_is_told():
  """The face sinks by two rows a frame; the lower half of its box is 30 rows high."""
  boxes = [np.array([[40.0 + 2 * i, 100 + 2 * i, 60, 110]]) for i in range(30)]
  _, report = face_track.join(boxes, (120, 200))
  assert report.outside == ((18, 30),) and not report.is_plain
  assert "mouth outside the picture: frames 18-29" in str(report)
  _, sideways = face_track.join([box[:, [2, 3, 0, 1]] for box in boxes], (200, 120))
  assert sideways.outside == ((26, 30),)


def test_two_faces_and_a_cut_are_told():
  one, other = np.array([40.0, 100, 60, 110]), np.array([40.0, 80, 150, 180])
  _, report = face_track.join([np.stack([one, other])] * 30, (120, 200))
  assert report.others == 1 and str(report).endswith("; 1 other face, smaller or there for a shorter time")
  _, report = face_track.join([one[None]] * 20 + [(one + [0, 0, 90, 90])[None]] * 10, (120, 200))
  assert report.jumps == (20,) and "at another place from frame 20 on" in str(report)


def test_given_boxes_of_some_frames_are_joined():
  given = [None] * 41
  given[0], given[40] = np.array([[10.0, 50, 10, 40]]), np.array([[30.0, 70, 90, 120]])
  boxes, report = face_track.join(given, (120, 200))
  np.testing.assert_allclose(boxes[20], [20, 60, 50, 80])
  assert (report.looked, report.found, report.bridged, report.lost) == (2, 2, (), ())


@pytest.mark.parametrize("height, want", [
  (5.0, [*range(10), 17, 25]), (40.0, [0, 1, 9, 17, 25])])
def test_parts_are_searched_now_and_then(monkeypatch, height, want):
  """A face in the first picture only: a small one may still be there in parts."""
  closely = []

  def find(image, model, close):
    closely.append(close)
    return np.array([[0, height, 0, height]] if len(closely) == 1 else np.zeros((0, 4)))

  monkeypatch.setattr(face, "find_boxes", find)
  face_track.track([np.zeros((64, 64, 3), np.uint8)] * 26, every=1)
  assert [number for number in range(26) if closely[number]] == want


def test_another_detector_is_asked_where_it_is_named(monkeypatch):
  asked = []

  def yunet(image, model):
    asked.append((image[0, 0, 0], model))
    return [(10.0, 50.0, 10.0, 40.0)]

  monkeypatch.setattr(face, "_detect_by_yunet", yunet)
  boxes, _ = face_track.track([np.full((60, 60, 3), number, np.uint8) for number in range(8)], "yunet.onnx", every=3)
  assert asked == [(0, "yunet.onnx"), (3, "yunet.onnx"), (6, "yunet.onnx"), (7, "yunet.onnx")]
  np.testing.assert_array_equal(boxes, [[10, 50, 10, 40]] * 8)
