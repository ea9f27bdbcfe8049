"""The face mask and the region of lip-sync, with boxes by frame and with faces that are found."""

import json

import numpy as np
import pytest
import soundfile

from emv3_jax.conditioning import face as face_lib
from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.sampling.inputs import Inputs, read_inputs
from emv3_jax.sampling.settings import Request
from tests.sampling.conftest import tiny_config

MOVING = "sampling.face_mask=moving"
BOXES = [[0, 32, 8 * number, 16 + 8 * number] for number in range(5)]  # of 48 x 48, to the right


@pytest.fixture
def read(files):
  def inputs(*overrides: str, **changes) -> Inputs:
    config = tiny_config(*overrides)
    values = {"audio": files["audio"], "task": "lipsync", **changes}
    return read_inputs(Request(**values), config, config.tokenizer)

  return inputs


@pytest.fixture
def film(tmp_path):
  """Writes so many frames of noise, 48 x 48, and boxes beside them."""
  def write(frames: int, boxes, fps: int = 25):
    pictures = np.random.default_rng(1).integers(0, 256, (frames, 48, 48, 3), np.uint8)
    video_files.write_video(tmp_path / "film.mp4", pictures, fps=fps)
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return {"video": str(tmp_path / "film.mp4"), "face_box": str(tmp_path / "boxes.json")}

  return write


def columns(mask: np.ndarray) -> list[int]:
  return np.flatnonzero(mask.any(axis=0))[[0, -1]].tolist()


def test_boxes_by_frame_move_the_mask_and_the_region(read, film):
  """A film of 50 frames a second: every other box counts."""
  boxes = [box for pair in zip(BOXES, [[0, 48, 0, 48]] * 5, strict=True) for box in pair]
  found = read(MOVING, **film(10, boxes, fps=50))
  assert [columns(region) for region in found.mouth_mask] == [[0, 15]] + [[8, 47]] * 4
  np.testing.assert_array_equal(found.condition_mask, ~found.mouth_mask)
  assert found.face_mask.shape == (9, 2)
  np.testing.assert_array_equal(found.face_mask.reshape(3, 3, 2)[0].T, [[1, 0, 0], [1, 1, 1]])
  np.testing.assert_array_equal(found.face_tokens[:, 2:], [[0, 1], [0, 1], [1, 2], [1, 2], [2, 3]])


def test_faces_that_are_found_are_joined_by_lines(read, film, tmp_path, monkeypatch):
  """Every fourth frame is looked at."""
  seen = []

  def find(picture, detector, closely):
    seen.append(4 * len(seen))
    return np.array([[0.0, 32, 2 * seen[-1], 16 + 2 * seen[-1]]])

  monkeypatch.setattr(face_lib, "find_boxes", find)
  soundfile.write(tmp_path / "voice.wav", np.sin(np.arange(13 * 640) / 9), 16000)
  found = read(MOVING, "sampling.max_frames=13", video=film(13, [])["video"], audio=tmp_path / "voice.wav")
  assert seen == [0, 4, 8, 12]
  edges = [columns(region) for region in found.mouth_mask[[0, 4, 8, 12]]]
  assert edges == [[0, 15], [2, 23], [10, 31], [18, 39]]


@pytest.mark.parametrize("overrides", [[MOVING], []])
def test_a_video_without_a_face_or_with_a_gap_is_told(read, film, monkeypatch, caplog, overrides):
  given = {"video": film(5, [])["video"]}
  monkeypatch.setattr(face_lib, "find_boxes", lambda *_: np.zeros((0, 4)))
  with pytest.raises(InputError, match=r"No face found in .*film.mp4: 2 of its 5 pictures \(48x48\) were searched"):
    read(*overrides, **given)
  seen = iter([[[0.0, 32, 0, 32]], np.zeros((0, 4))])
  monkeypatch.setattr(face_lib, "find_boxes", lambda *_: np.array(next(seen)))
  found = read(*overrides, **given)
  assert [columns(region) for region in found.mouth_mask] == [[0, 31]] * 5
  warning, = [record for record in caplog.records if record.levelname == "WARNING" and "film.mp4" in record.message]
  assert "face found in 1 of 2 pictures that were looked at; bridged: frames 1-4, within 0,32,0,32." in warning.message


def test_one_box_is_one_mask_for_all_frames(read, film):
  given = {**film(5, BOXES), "face_box": "0,32,8,40"}
  moving, released = read(MOVING, **given), read(**given)
  for name in ("mouth_mask", "face_mask", "face_tokens", "condition_mask", "reference_image"):
    np.testing.assert_array_equal(getattr(moving, name), getattr(released, name), err_msg=name)
  assert moving.face_mask.shape == (9,)


@pytest.mark.parametrize("boxes, overrides, said", [
    (BOXES[:4], [MOVING], "boxes for 4 frames, the video has 5"),
    ([*BOXES[:4], None], ["sampling.face_mask=released"], "with sampling.face_mask=released one box serves"),
    ([*BOXES[:4], [0, 32, 50, 66]], [MOVING], "outside the picture.* in frame 4"),
    ([*BOXES[:4], [30, 90, 0, 16]], [MOVING], "The mouth is outside the picture in frame 4")])
def test_boxes_that_cannot_be_used(read, film, boxes, overrides, said):
  with pytest.raises(InputError, match=said):
    read(*overrides, **film(5, boxes))


def test_boxes_by_frame_are_for_a_video(read, film, files):
  with pytest.raises(InputError, match="boxes by frame, which are for a video; task i2v has a picture"):
    read(MOVING, task="i2v", image=files["image"], face_box=film(5, BOXES)["face_box"])


def test_a_last_picture_without_a_face_is_named(read, files, monkeypatch):
  found = iter([face_lib.FaceBox(0, 32, 0, 16, 48, 48)])

  def detect(picture, detector):
    box = next(found, None)
    if box is None:
      raise face_lib.NoFace("No face found.", (48, 48))
    return box

  monkeypatch.setattr(face_lib, "detect_face", detect)
  with pytest.raises(face_lib.NoFace, match="last.*: No face found.* A box that is given is that of both pictures"):
    read(MOVING, task="flf2v", image=files["image"], last_image=files["last_image"])
