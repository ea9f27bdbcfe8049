"""Face masks and regions of lip-sync that follow the face, from the manifest to the network; and `released`."""

import dataclasses
import pathlib

import numpy as np
from PIL import Image
import pytest
from safetensors.numpy import load as load_arrays

from emv3_jax.conditioning.face import FaceBox
from emv3_jax.data import records
from emv3_jax.data.pipeline import Dataset
from emv3_jax.io import video_files
from emv3_jax.sampling import faces
from emv3_jax.sampling.settings import Request
from emv3_jax.training.curriculum import Mixture, Stage
from emv3_jax.training.input.prefetch import make_batch
from emv3_jax.variants.preview import PREVIEW
from tests.data.given import check_same, in_sampling, in_training
from tests.preparation.preparing import prepare, rows_of, write_manifest

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
