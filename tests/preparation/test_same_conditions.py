"""One clip through training and through sampling: the network is given the same numbers.

Training: preparation, record, batch, task, forward pass. Sampling: request, inputs, encoders.
"""

import numpy as np
from PIL import Image
import pytest

from emv3_jax.data.pipeline import Dataset
from emv3_jax.io import video_files
from emv3_jax.sampling.settings import Request
from emv3_jax.tasks import names
from emv3_jax.training.curriculum import Mixture, Stage
from emv3_jax.training.input.prefetch import make_batch
from tests.data.given import check_same, in_sampling, in_training
from tests.preparation.preparing import close, prepare, rows_of, write_manifest


@pytest.fixture(scope="module")
def row(footage, tmp_path_factory) -> dict:
  """A clip of 5 frames whose mouth is where sampling takes it to be, and its outer frames."""
  row = rows_of(footage)[0]
  del row["mouth_box"]
  folder = tmp_path_factory.mktemp("pictures")
  frames = video_files.read_video(row["video"]).frames
  for name, picture in (("image", frames[0]), ("last_image", frames[-1])):
    row[name] = folder / f"{name}.png"
    Image.fromarray(picture).save(row[name])
  return row


@pytest.fixture(scope="module", params=["preview", "flash"])
def prepared(request, row, tmp_path_factory):
  """(encoders, dataset of the clip) of a variant."""
  model = request.getfixturevalue({"preview": "model", "flash": "flash"}[request.param])
  folder = tmp_path_factory.mktemp(request.param)
  line = {name: row[name] for name in ("id", "video", "prompt", "face_box")}
  prepare(model, write_manifest(folder / "clips.jsonl", [line]), folder / "set")
  return model, Dataset(folder / "set", model.config.model.transformer)


@pytest.mark.parametrize("task", names())
def test_training_and_sampling_agree(prepared, row, task, monkeypatch):
  model, dataset = prepared
  pictures = {"t2v": (), "i2v": ("image",), "flf2v": ("image", "last_image"),
              "lipsync": ("video",)}[task]
  variant = model.config.model.transformer.variant
  masked = task == "lipsync" or variant == "preview" and task != "t2v"
  request = Request(audio=row["video"], prompt=row["prompt"], task=task,
                    face_box=row["face_box"] if masked else None,
                    **{name: row[name] for name in pictures})
  want = in_sampling(model, request, monkeypatch)
  stage = Stage("one", 1, Mixture(**{task: 1.0}))
  got = in_training(model, make_batch(0, 0, stage, next(dataset.batches(1, seed=0)), face_mask="moving"))
  check_same(got, want, variant)
  assert np.any(got["condition"]) == np.any(got["image"]) == (task != "t2v")
  assert np.any(got["audio"]) and np.any(got["text"])
  if variant == "preview":
    assert (want.face_mask is None) == (task == "t2v")
    assert task == "t2v" or 0 < np.mean(want.face_mask) < 1


def test_latents_are_those_of_the_video(prepared, row):
  model, dataset = prepared
  frames = video_files.read_video(row["video"]).frames
  video = np.float32(frames)[None] / 127.5 - 1
  with model.parameters("vae") as params:
    close(dataset[0].latents, model.vae_encode(params, video)[0])
