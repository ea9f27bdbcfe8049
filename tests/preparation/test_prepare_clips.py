"""What preparation reads before any network runs: manifest, framing, windows, boxes."""

import dataclasses
import json

import numpy as np
import pytest

from emv3_jax.conditioning import face as face_lib
from emv3_jax.conditioning.face import FaceBox
from emv3_jax.conditioning.framing import Framing
from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.preparation.footage import read_footage, stream_windows
from emv3_jax.preparation.framing import nearest_size
from emv3_jax.preparation.manifest import Clip, read_manifest
from emv3_jax.preparation.settings import PrepareConfig

SETTINGS = PrepareConfig(frames=5, stride=4, sizes=((32, 32), (32, 48)))
SIZES = ((480, 832), (640, 640), (256, 256), (832, 480))


@pytest.fixture
def clip(tmp_path, rng) -> Clip:
  """15 frames of 64x32 pixels with 0.6 s of sound; the frames' brightness tells their number."""
  frames = np.repeat(np.arange(15, dtype=np.uint8)[:, None, None, None] * 16, 32, axis=1)
  frames = np.broadcast_to(frames, (15, 32, 64, 3))
  path = tmp_path / "clip.mp4"
  sound = 0.1 * rng.standard_normal(9600).astype(np.float32)
  video_files.write_video(path, frames, audio=(sound, 16000))
  return Clip(1, "clip", path, "words", face_box="4,28,20,44")


def changed(clip: Clip, **fields) -> Clip:
  return Clip(**{**vars(clip), **fields})


@pytest.mark.parametrize("height, width, want", [
    (1080, 1920, (480, 832)), (1920, 1080, (832, 480)), (1000, 1000, (640, 640)),
    (640, 640, (640, 640)), (500, 500, (256, 256)), (100, 100, (256, 256)), (720, 1280, (480, 832))])
def test_nearest_size(height, width, want):
  assert nearest_size(height, width, SIZES) == want


def test_the_crop_is_central_and_keeps_the_aspect_ratio():
  assert Framing(100, 300, (64, 64)).crop == (0, 100, 100, 100)
  assert Framing(300, 100, (64, 128)).crop == (125, 0, 50, 100)
  frame = np.zeros((32, 64, 3), np.uint8)
  frame[:, 16:48] = 200
  np.testing.assert_array_equal(Framing(32, 64, (16, 16)).picture(frame), np.full((16, 16, 3), 200))


def test_boxes_move_with_the_crop():
  framing = Framing(100, 300, (64, 64))
  box = framing.box(FaceBox(10, 60, 80, 150, 100, 300))
  assert box == FaceBox(10, 60, 0, 50, 100, 100)
  with pytest.raises(InputError, match="box 10,60,0,90 lies outside the centre crop to 64x64"):
    framing.box(FaceBox(10, 60, 0, 90, 100, 300))


def test_windows_of_a_clip(clip):
  found = read_footage(clip, SETTINGS)
  assert found.framing.size == (32, 48)
  assert [(window.index, window.start) for window in found.windows] == [(0, 0), (1, 4), (2, 8)]
  streamed = list(stream_windows(found, SETTINGS))
  assert [window for window, _ in streamed] == list(found.windows)
  for window, frames in streamed:
    assert frames.shape == (5, 32, 48, 3)
    brightness = frames.mean(axis=(1, 2, 3)) / 16
    np.testing.assert_allclose(brightness, window.start + np.arange(5), atol=0.2)
    np.testing.assert_array_equal(window.first, frames[0])


@pytest.mark.parametrize("stride, starts", [(0, [0, 5, 10]), (7, [0, 7]), (1, list(range(11)))])
def test_strides(clip, stride, starts):
  settings = PrepareConfig(frames=5, stride=stride, sizes=((32, 48),))
  found = read_footage(clip, settings)
  assert [window.start for window in found.windows] == starts
  for (window, frames), start in zip(stream_windows(found, settings), starts, strict=True):
    assert window.start == start
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)) / 16, start + np.arange(5), atol=0.2)


def test_sound_that_ends_early_ends_the_windows(clip, tmp_path, rng):
  path = tmp_path / "half.mp4"
  frames = video_files.read_video(clip.video).frames
  with_sound = rng.standard_normal(9600).astype(np.float32) / 10
  video_files.write_video(path, frames[:7], audio=(with_sound, 16000))
  assert [w.start for w in read_footage(changed(clip, video=path), SETTINGS).windows] == [0]


def test_face_and_mouth_by_cells(clip):
  """Face rows 4 to 28, columns 12 to 36 of the crop: the lower half begins at row 16."""
  window = read_footage(clip, SETTINGS).windows[0]
  redrawn = np.zeros((32, 48), bool)
  redrawn[16:28, 12:36] = True
  np.testing.assert_array_equal(window.inpainted, redrawn[None])
  np.testing.assert_array_equal(window.mouth, redrawn[None])
  np.testing.assert_array_equal(window.face_tokens, [[0, 1, 0, 2]])
  window = read_footage(changed(clip, mouth_box="14,20,28,36"), SETTINGS).windows[0]
  mouth = np.zeros((32, 48), bool)
  mouth[14:20, 20:28] = True
  np.testing.assert_array_equal(window.mouth, mouth[None])
  np.testing.assert_array_equal(window.inpainted, (redrawn | mouth)[None])


def test_no_face_box_needs_a_mouth_box(clip):
  with pytest.raises(InputError, match="face_box none needs a mouth_box"):
    read_footage(changed(clip, face_box="none"), SETTINGS)
  window = read_footage(changed(clip, face_box="none", mouth_box="14,20,28,36"), SETTINGS).windows[0]
  assert window.face_tokens.tolist() == [[0, 2, 0, 3]] and window.inpainted.sum() == 6 * 8


@pytest.mark.parametrize("fields, said", [
    ({"face_box": "1,2"}, "face_box: Face box '1,2'"),
    ({"face_box": "0,99,0,9"}, "face_box: .* outside the image of 32 rows and 64 columns"),
    ({"face_box": "0,9,0,6"}, "face_box: box 0,9,0,6 lies outside the centre crop"),
    ({"mouth_box": "auto"}, "mouth_box 'auto': wanted y1,y2,x1,x2"),
    ({"mouth_box": "9,2,1,4"}, "mouth_box: .*reversed"),
    ({"fault": "no good"}, "no good")])
def test_boxes_that_cannot_be_used(clip, fields, said):
  with pytest.raises(InputError, match=said):
    read_footage(changed(clip, **fields), SETTINGS)


def test_auto_follows_the_face_through_a_window(clip, monkeypatch, caplog):
  """Every fourth frame is looked at; a window without a face is left out, the others stay."""
  asked, gone = [], [4, 8]

  def find(picture, model, closely):
    asked.append(round(picture.mean() / 16))
    return np.array([[2.0, 20 + asked[-1], 8, 30]] if asked[-1] not in gone else np.zeros((0, 4)))

  caplog.set_level("INFO", "absl")
  monkeypatch.setattr(face_lib, "find_boxes", find)
  found = read_footage(changed(clip, face_box="auto"), SETTINGS)
  assert asked == [0, 4, 8, 12] and [window.index for window in found.windows] == [0, 2]
  entry, = found.rejected
  assert entry.window == 1 and entry.reason.startswith(f"No face found in {clip.video}: 2 of its 5 pictures (48x32)")
  rows = np.flatnonzero(found.windows[0].inpainted[4].any(axis=1))
  assert (rows[0], rows[-1]) == (11, 19)  # lower half of rows 2 to 19, which are held
  assert "Clip clip, frames 8-12: face found in 1 of 2 pictures that were looked at; bridged: frames 8-11." in caplog.messages
  assert [window.start for window, _ in stream_windows(found, SETTINGS)] == [0, 8]
  gone.clear()
  for kind, lowest in (("moving", [19, 23, 23, 23, 23]), ("released", [23] * 5)):
    asked.clear()
    window = read_footage(changed(clip, face_box="auto"), dataclasses.replace(SETTINGS, face_mask=kind)).windows[0]
    regions = np.broadcast_to(window.inpainted, (5, 32, 48))
    assert [np.flatnonzero(region.any(axis=1))[-1] for region in regions] == lowest


@pytest.mark.parametrize("fields, said", [
    ({"frames": 6}, "frames is 6; it must be 4k"), ({"sizes": ((30, 32),)}, "multiples of 16"),
    ({"sizes": ()}, "multiples of 16"), ({"dtype": "int8"}, "known: float16"),
    ({"mouth_fraction": 0.0}, "mouth_fraction"), ({"video_batch": 0}, "video_batch is 0"),
    ({"stride": -1}, "stride"), ({"sound_frames": 9, "frames": 13}, "less than a window of 13")])
def test_settings_that_cannot_be(fields, said):
  with pytest.raises(InputError, match=said):
    PrepareConfig(**fields)


def write_lines(path, *lines):
  path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n"
                          for line in lines))
  return path


def test_manifest(tmp_path, caplog):
  clips = read_manifest(write_lines(
      tmp_path / "clips.jsonl", {"id": "a", "video": "a.mp4", "prompt": "x", "truth": [1]}, "",
      {"id": "b", "video": "/b.mp4", "prompt": "", "face_box": "f.npy", "mouth_box": None}))
  assert clips[0] == Clip(1, "a", tmp_path / "a.mp4", "x")
  assert (clips[1].line, str(clips[1].video), clips[1].face_box) == (3, "/b.mp4",
                                                                     str(tmp_path / "f.npy"))
  assert "Clip b (line 3) has an empty prompt" in caplog.text


@pytest.mark.parametrize("line, said", [
    ("{", "not JSON"), ("[1]", "is list, expected a JSON object"),
    ({"id": "a", "video": "v"}, "prompt missing"), ({"prompt": ""}, "id and video missing"),
    ({"id": "a", "video": 3, "prompt": ""}, "video is 3, expected a string"),
    ({"id": ["a"], "video": "v", "prompt": {"b": 1}}, "id is ['a'], expected a string"),
    ({"id": "a", "video": "v\0", "prompt": ""}, "video is 'v\\x00', expected a string"),
    ({"id": "\ud800", "video": "v", "prompt": ""}, "id is '\\ud800', expected a string"),
    ({"id": "a", "video": "v", "prompt": True}, "prompt is True"),
    ({"id": "a", "video": "v", "prompt": "", "mouth_box": 1.5}, "mouth_box is 1.5"),
    ({"id": "a", "video": "v", "report": 7}, "report is 7, expected a string"),
    ("[" * 100_000, "not JSON"), ("9" * 5000, "not JSON"), ("7", "is int, expected"),
    ("null", "is NoneType"), ({"id": "a", "video": "gs://b/v.mp4", "prompt": ""}, "Video gs://b/v.mp4 is an address")])
def test_a_line_that_is_no_clip_says_why(tmp_path, line, said):
  (clip,) = read_manifest(write_lines(tmp_path / "clips.jsonl", line))
  assert said in clip.fault


def test_unusable_manifests(tmp_path):
  with pytest.raises(InputError, match="cannot be read"):
    read_manifest(tmp_path / "absent.jsonl")
  with pytest.raises(InputError, match="has no clips"):
    read_manifest(write_lines(tmp_path / "empty.jsonl", ""))


def test_lines_of_one_id_are_rejected_and_no_others(tmp_path):
  a, b = ({"id": name, "video": "v", "prompt": "p"} for name in "ab")
  clips = read_manifest(write_lines(tmp_path / "clips.jsonl", a, b, {**a, "video": None}, a))
  assert clips[0].fault == clips[3].fault == "lines 1, 4 all have id 'a'; give each clip an id of its own"
  assert not clips[1].fault and "video missing" in clips[2].fault


def test_manifests_of_other_programs(tmp_path):
  """A byte order mark, carriage returns, line separators within a line, boxes as lists, null."""
  line = {"id": "a", "video": "v", "prompt": "one\u2028two\x85", "face_box": [1, 2.0, 3, 4.5], "report": None}
  (tmp_path / "clips.jsonl").write_bytes("".join(
      f"\ufeff{json.dumps({**line, 'id': name}, ensure_ascii=False)}\r\n" for name in "ab").encode())
  clips = read_manifest(tmp_path / "clips.jsonl")
  assert [(clip.id, clip.line, clip.fault) for clip in clips] == [("a", 1, ""), ("b", 2, "")]
  assert clips[0].prompt == "one\u2028two\x85" and clips[0].face_box == "1,2,3,4.5"
