import os
import sys
import types

import numpy as np
import pytest

from emv3_jax.conditioning import face, face_boxes
from emv3_jax.conditioning.face import FaceBox
from emv3_jax.errors import InputError
from tests.faces.conftest import FACE, read_astronaut

BLANK = np.zeros((120, 200, 3), np.uint8)


def test_box_from_numbers():
  assert face.parse_face_box("10, 60,20,90.5", BLANK) == FaceBox(10, 60, 20, 90.5, 120, 200)
  assert face.parse_face_box("0,120,0,200", BLANK) == FaceBox(0, 120, 0, 200, 120, 200)
  assert face.parse_face_box("none", BLANK) is None


@pytest.mark.parametrize("source, found", [
    ("60,10,20,90", "reversed"), ("10,60,90,20", "reversed"), ("10,10,20,90", "empty"),
    ("10,121,20,90", "outside"), ("10,60,20,201", "outside"), ("-1,60,20,90", "outside"),
    ("nan,60,20,90", "outside"), ("10,60,20", "four numbers"), ("10,60,20,90,5", "four numbers"),
    ("a,b,c,d", "four numbers"), ("", "four numbers"), ("atuo", "auto or none")])
def test_bad_boxes_are_refused(source, found):
  with pytest.raises(InputError, match=found):
    face.parse_face_box(source, BLANK)


def test_box_from_a_file_of_the_reference(tmp_path):
  path = str(tmp_path / "face.npy")
  np.save(path, np.array([100, 400, 200, 500, 600, 1000]))
  assert face.parse_face_box(path, BLANK) == FaceBox(100, 400, 200, 500, 600, 1000)


@pytest.mark.parametrize("values, found", [
    ([400, 100, 200, 500, 600, 1000], "reversed"), ([100, 700, 200, 500, 600, 1000], "outside"),
    ([100, 400, 200, 500], "six numbers"), ([1, 2, 3, 4, np.nan, 9], "six numbers"),
    (["1", "2", "3", "4", "5", "6"], "six numbers"), ([100, 400, 200, 500, 1000, 600], "aspect ratio"),
    ([None] * 6, "not an array of numbers")])
def test_bad_files_are_refused(tmp_path, values, found):
  path = str(tmp_path / "face.npy")
  np.save(path, np.array(values), allow_pickle=True)
  with pytest.raises(InputError, match=found):
    face.parse_face_box(path, BLANK)


def test_a_pipe_is_no_box(tmp_path):
  os.mkfifo(tmp_path / "box.npy")
  with pytest.raises(InputError, match="box.npy is not a regular file"):
    face.parse_face_box(f"{tmp_path}/box.npy", BLANK)


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00v\x00{'descr"])
def test_damaged_files_are_refused(tmp_path, content):
  (tmp_path / "face.npy").write_bytes(content)
  with pytest.raises(InputError, match="face.npy"):
    face.parse_face_box(str(tmp_path / "face.npy"), BLANK)
  with pytest.raises(InputError, match="none.npy: No such file"):
    face.parse_face_box(str(tmp_path / "none.npy"), BLANK)


def overlap(a: FaceBox, b: FaceBox) -> float:
  height = max(min(a.y2, b.y2) - max(a.y1, b.y1), 0)
  width = max(min(a.x2, b.x2) - max(a.x1, b.x1), 0)
  area = lambda box: (box.y2 - box.y1) * (box.x2 - box.x1)
  return height * width / (area(a) + area(b) - height * width)


def test_finds_the_face_of_a_portrait_in_whole_pixels_of_it():
  got = face.detect_face(read_astronaut())
  assert overlap(got, FaceBox(*FACE, 256, 256)) > 0.8
  assert all(isinstance(edge, int) for edge in (got.y1, got.y2, got.x1, got.x2))


def test_takes_the_largest_face_keeps_it_inside_and_says_so(caplog):
  caplog.set_level("INFO", "absl")
  close = read_astronaut()[60:, 80:]  # cut above the brow
  small = np.pad(read_astronaut()[::2, ::2], ((0, 68), (0, 0), (0, 0)))
  got = face.parse_face_box("auto", np.concatenate([close, small], axis=1))
  assert got.y1 == 0 and overlap(got, FaceBox(0, 130, 0, 102, 196, 304)) > 0.7
  line, = caplog.messages
  assert line == f"2 faces found; the largest is taken, at {got}."


def test_a_face_on_its_side_is_told(caplog):
  got = face.parse_face_box("auto", np.ascontiguousarray(np.rot90(read_astronaut())))
  y1, y2, x1, x2 = FACE
  assert overlap(got, FaceBox(256 - x2, 256 - x1, y1, y2, 256, 256)) > 0.7
  line, = caplog.messages
  assert f"The face at {got} is turned by -" in line and line.endswith("turn the picture so that it is upright.")


@pytest.mark.parametrize("image", [BLANK, np.zeros((16, 16, 3), np.uint8)], ids=["blank", "tiny"])
def test_no_face_is_an_error(image):
  with pytest.raises(face.NoFace) as caught:
    face.detect_face(image)
  height, width = caught.value.size
  assert str(caught.value) == (
      f"No face found in the image of {width}x{height} pixels, searched whole, in parts and upside down.\n"
      "Give the face box as y1,y2,x1,x2 (--face_box, or face_box in a file).")


def fake_opencv(faces):
  class Yunet:
    @staticmethod
    def create(model, config, size):
      assert size == (200, 120)
      return Yunet()

    def detect(self, image):
      assert image[0, 0].tolist() == [3, 2, 1]  # OpenCV's channel order
      return 1, faces
  return types.SimpleNamespace(FaceDetectorYN=Yunet, error=RuntimeError)


def test_yunet_takes_over_if_its_model_is_given(tmp_path, monkeypatch):
  (tmp_path / "yunet.onnx").write_bytes(b"model")
  image = BLANK + np.array([1, 2, 3], np.uint8)
  found = np.zeros((2, 15), np.float32)
  found[:, :4] = [[10, 10, 20, 20], [150, 60, 60, 50]]  # x, y, width, height
  monkeypatch.setitem(sys.modules, "cv2", fake_opencv(found))
  got = face.parse_face_box("auto", image, tmp_path / "yunet.onnx")
  assert got == FaceBox(60, 110, 150, 200, 120, 200)
  monkeypatch.setitem(sys.modules, "cv2", fake_opencv(None))
  with pytest.raises(InputError, match="No face found"):
    face.detect_face(image, tmp_path / "yunet.onnx")
  with pytest.raises(InputError, match="no such file"):
    face.detect_face(image, tmp_path / "none.onnx")


def test_yunet_without_opencv_names_the_command(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "cv2", None)
  with pytest.raises(InputError, match="pip install opencv-python-headless"):
    face.detect_face(BLANK, tmp_path / "yunet.onnx")


def test_none_is_advised_only_where_it_may_be_given():
  small = FaceBox(0, 2, 0, 2, 120, 200)
  for ask in (lambda **how: face.parse_face_box("auto", BLANK, **how),
              lambda **how: face.parse_face_box("atuo", BLANK, **how),
              lambda **how: face_boxes.token_boxes(face_boxes.as_boxes(small), (120, 200), (64, 64), **how)):
    for optional in (True, False):
      with pytest.raises(InputError) as caught:
        ask(optional=optional)
      assert ("none" in str(caught.value)) == optional
  with pytest.raises(InputError, match="four numbers"):
    face.parse_face_box("none", BLANK, optional=False)
