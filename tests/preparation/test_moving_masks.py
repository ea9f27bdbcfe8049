"""Face masks and regions of lip-sync that follow the face, from the manifest to the network; and `released`."""

import dataclasses
import json
import pathlib

import numpy as np
from PIL import Image
import pytest
from safetensors.numpy import load as load_arrays

from emv3_jax.conditioning.face import FaceBox
from emv3_jax.data import records
from emv3_jax.data.pipeline import Dataset
from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.preparation.footage import read_footage
from emv3_jax.preparation.manifest import read_manifest
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.sampling import faces
from emv3_jax.sampling.settings import Request
from emv3_jax.training.curriculum import Mixture, Stage
from emv3_jax.training.input.prefetch import make_batch
from emv3_jax.variants.preview import PREVIEW
from tests.data.given import check_same, in_sampling, in_training
from tests.preparation.preparing import SMALL, prepare, rows_of, write_manifest

BOXES = [[10, 44, 2 + 6 * number, 34 + 6 * number] for number in range(5)]  # to the right
OLD = pathlib.Path(__file__).parents[1] / "data/version_2.record"


@pytest.fixture(scope="module")
def row(footage) -> dict:
  row = rows_of(footage)[0]
  del row["mouth_box"]
  return row


@pytest.fixture(scope="module")
def moving(model, row, tmp_path_factory) -> Dataset:
  """The clip, with a face that moves."""
  folder = tmp_path_factory.mktemp("moving")
  index = prepare(model, write_manifest(folder / "clips.jsonl", [{**row, "face_box": BOXES}]), folder / "set")
  assert index.version == records.MOVING and index.settings["face_mask"] == "moving"
  return Dataset(folder / "set", model.config.model.transformer)


def test_the_face_and_the_mouth_follow_the_boxes(moving):
  record = moving[0]
  np.testing.assert_array_equal(record.face_box[:, 2:], [[0, 2], [0, 2], [0, 2], [1, 3], [1, 3]])
  columns = lambda latent: np.flatnonzero((record.lipsync_mask[latent] == 0).any(axis=0))[[0, -1]].tolist()
  assert columns(0) == [0, 4] and columns(1) == [1, 7]
  np.testing.assert_array_equal(record.mouth_mask, 1 - record.lipsync_mask)


@pytest.mark.parametrize("task", ["i2v", "flf2v", "lipsync"])
def test_training_and_sampling_agree_on_a_face_that_moves(moving, model, row, task, tmp_path, monkeypatch):
  frames = video_files.read_video(row["video"]).frames
  pictures = {"i2v": {"image": 0}, "flf2v": {"image": 0, "last_image": 4}, "lipsync": {}}[task]
  for name, number in pictures.items():
    Image.fromarray(frames[number]).save(tmp_path / f"{name}.png")
  np.save(tmp_path / "boxes.npy", BOXES)
  given = {"video": row["video"]} if task == "lipsync" else {name: tmp_path / f"{name}.png" for name in pictures}
  found = {frames[number].tobytes(): FaceBox(*BOXES[number], 64, 64) for number in (0, 4)}
  monkeypatch.setattr(faces.face_lib, "detect_face", lambda picture, detector: found[picture.tobytes()])
  settings = dataclasses.replace(model.config.sampling, face_mask="moving")
  monkeypatch.setattr(model, "config", dataclasses.replace(model.config, sampling=settings))
  request = Request(audio=row["video"], prompt=row["prompt"], task=task, **given,
                    face_box=str(tmp_path / "boxes.npy") if task == "lipsync" else "auto")
  want = in_sampling(model, request, monkeypatch)
  stage = Stage("one", 1, Mixture(**{task: 1.0}))
  got = in_training(model, make_batch(0, 0, stage, next(moving.batches(1, seed=0)), face_mask="moving"))
  check_same(got, want, "preview")
  assert want.face_mask.shape == ((1, 16, 2) if task == "lipsync" else (1, 16))
  columns = np.flatnonzero(want.face_mask.reshape(4, 4, -1)[..., -1].any(axis=0)).tolist()
  assert columns == {"i2v": [0, 1], "flf2v": [0, 1, 2], "lipsync": [0, 1, 2]}[task]


def test_released_writes_what_it_always_wrote(model, footage, tmp_path):
  """The same arrays with the same names as version 2 wrote of this clip; floating ones up to rounding."""
  manifest = write_manifest(tmp_path / "clips.jsonl", rows_of(footage)[:1])
  index = prepare(model, manifest, tmp_path / "set", face_mask="released", dtype="float16")
  assert index.version == records.STILL
  old = load_arrays(OLD.read_bytes())
  new = load_arrays(records.encode(Dataset(tmp_path / "set")[0], "float16", PREVIEW))
  assert old.keys() == new.keys()
  for name, array in old.items():
    assert array.dtype == new[name].dtype
    if array.dtype == np.uint8:
      np.testing.assert_array_equal(new[name], array)
    else:
      np.testing.assert_allclose(np.float32(new[name]), np.float32(array), atol=2e-3 * np.abs(np.float32(array)).max())


@pytest.fixture(scope="module")
def clip(row, tmp_path_factory):
  """Makes a clip of 13 frames (with no picture worth seeing) with these boxes."""
  folder = tmp_path_factory.mktemp("film")

  def make(boxes, frames: int = 13, fps: int = 25, **fields):
    pictures = np.zeros((frames, 64, 64, 3), np.uint8)
    path = folder / f"{frames}_{fps}.mp4"
    if not path.exists():
      video_files.write_video(path, pictures, fps=fps, audio=(np.full(13 * 640, 0.1, np.float32), 16000))
    line = {"id": "a", "video": str(path), "prompt": "x", "face_box": boxes, **fields}
    return read_manifest(write_manifest(folder / "clips.jsonl", [line]))[0]

  return make


SETTINGS = PrepareConfig(**{**SMALL, "stride": 4})
LONG = [[10, 44, number, 32 + number] for number in range(0, 26, 2)]


def test_a_later_window_has_the_boxes_of_its_own_frames(clip):
  found = read_footage(clip(LONG), SETTINGS)
  np.testing.assert_array_equal(found.windows[2].regions.face, LONG[8:])
  released = read_footage(clip(LONG), dataclasses.replace(SETTINGS, face_mask="released"))
  assert released.windows[2].regions.face.tolist() == [[10, 44, 16, 56]]


def test_boxes_are_resampled_with_their_video(clip):
  boxes = [box for box in LONG for _ in range(2)]
  boxes[1::2] = [[0, 64, 0, 64]] * 13
  found = read_footage(clip(boxes, frames=26, fps=50), SETTINGS)
  np.testing.assert_array_equal(found.windows[1].regions.face, LONG[4:9])


def test_a_mouth_box_by_frame_is_drawn_anew_too(clip):
  mouths = [[46, 60, 30 + number, 40 + number] for number in range(13)]
  regions = read_footage(clip("10,44,0,32", mouth_box=mouths), SETTINGS).windows[0].regions
  assert np.flatnonzero(regions.mouth_region()[1].any(axis=0))[[0, -1]].tolist() == [31, 43]
  assert regions.inpainted()[1, 30].any() and regions.face.shape == (1, 4)


def test_windows_whose_boxes_cannot_be_used_are_left_out_with_their_frames(clip):
  boxes = LONG[:8] + [[10, 44, 70, 90]] * 2 + [[40, 90, 0, 32]] * 3
  found = read_footage(clip(boxes), SETTINGS)
  assert [window.index for window in found.windows] == [0]
  assert ["in frames 8" in entry.reason or "in frame 8" in entry.reason for entry in found.rejected] == [True, True]
  with pytest.raises(InputError, match="face_box has boxes for 12 frames, the video has 13"):
    read_footage(clip(LONG[:12]), SETTINGS)
  assert "has [1, 2] for frame 1; wanted a list of boxes" in clip([[1, 2, 3, 4], [1, 2]]).fault


def test_a_folder_keeps_its_setting(model, footage, tmp_path):
  manifest = write_manifest(tmp_path / "clips.jsonl", rows_of(footage)[:1])
  prepare(model, manifest, tmp_path / "set", face_mask="released")
  with pytest.raises(InputError, match="face_mask: 'released' != 'moving'"):
    prepare(model, manifest, tmp_path / "set")
  for name in ("settings.json", "index.json"):  # as a release wrote it that did not know the setting
    values = json.loads((tmp_path / "set" / name).read_text())
    del values["settings"]["face_mask"]
    (tmp_path / "set" / name).write_text(json.dumps(values))
  assert prepare(model, manifest, tmp_path / "set", face_mask="released").records == 1
