"""One clip through training and through sampling: the network is given the same numbers.

Training: preparation, record, batch, task, forward pass. Sampling: request, inputs, encoders.
"""

import jax
import numpy as np
from PIL import Image
import pytest

from emv3_jax import sharding
from emv3_jax.data.pipeline import Dataset
from emv3_jax.io import video_files
from emv3_jax.sampling import clip as clip_lib
from emv3_jax.sampling.settings import Request
from emv3_jax.sharding import MeshConfig
from emv3_jax.tasks.masks import Task
from emv3_jax.tasks.schedule import Mixture, Stage
from emv3_jax.training import forward as forward_lib
from emv3_jax.training.draws import Draws
from emv3_jax.training.host_batches import finished
from tests.data.preparing import close, prepare, rows_of, write_manifest
from tests.training import tiny


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


class Given:
  """In the place of the transformer: keeps what it is called with."""

  def bind(self, params):
    return self

  def embed_context(self, text, image, audio, *, constrain):
    self.context = {"text": text, "image": image, "audio": audio}

  def __call__(self, x, known, sinusoid, context, *, face_mask, **options):
    self.known, self.face_mask = known, face_mask
    return x


def in_training(model, batch, monkeypatch) -> dict:
  """What the forward pass of training gives the network of an assembled batch."""
  given = Given()
  monkeypatch.setattr(forward_lib.transformer, "network", lambda *_: given)
  config = tiny.config_of(network=model.config.model.transformer)
  forward = forward_lib.Forward(config, sharding.make_mesh(MeshConfig(), jax.devices()[:1]))
  zeros = np.zeros_like(batch["latents"])
  forward.velocity(None, batch, Draws(np.float32([0.5]), zeros, None), rope=None)
  return {**given.context, "known": given.known, "face_mask": given.face_mask}


class Stopped(Exception):
  pass


def in_sampling(model, request: Request, monkeypatch) -> dict:
  """What sampling gives the network of a request."""
  def denoise(model, inputs, conditions, progress):
    raise Stopped(conditions)

  monkeypatch.setattr(clip_lib, "denoise", denoise)
  with pytest.raises(Stopped) as stopped:
    clip_lib.sample(model, request)
  conditions = stopped.value.args[0]
  return {"text": conditions.text["prompt"], "image": conditions.image, "audio": conditions.audio,
          "known": conditions.known, "face_mask": conditions.face_mask}


@pytest.mark.parametrize("task", Task)
def test_training_and_sampling_agree(prepared, row, task, monkeypatch):
  model, dataset = prepared
  pictures = {Task.T2V: (), Task.I2V: ("image",), Task.FLF2V: ("image", "last_image"),
              Task.LIPSYNC: ("video",)}[task]
  request = Request(audio=row["video"], prompt=row["prompt"], task=task, face_box=row["face_box"],
                    **{name: row[name] for name in pictures})
  want = in_sampling(model, request, monkeypatch)
  stage = Stage("one", 1, Mixture(**{task: 1.0}))
  got = in_training(model, finished(0, 0, stage, next(dataset.batches(1, seed=0))), monkeypatch)
  for name in ("text", "image", "audio", "known"):
    close(got[name], want[name])
  assert np.any(got["known"]) == np.any(got["image"]) == (task is not Task.T2V)
  assert np.any(got["audio"]) and np.any(got["text"])
  if model.config.model.transformer.variant == "flash":
    assert got["face_mask"] is None and want["face_mask"] is None
  elif want["face_mask"] is None:
    assert task is Task.T2V and np.all(got["face_mask"] == 1), "None stands for everywhere"
  else:
    np.testing.assert_array_equal(got["face_mask"], want["face_mask"])
    assert 0 < np.mean(want["face_mask"]) < 1


def test_latents_are_those_of_the_video(prepared, row):
  model, dataset = prepared
  frames = video_files.read_video(row["video"]).frames
  video = np.float32(frames)[None] / 127.5 - 1
  with model.parameters("vae") as params:
    close(dataset[0].latents, model.vae_encode(params, video)[0])
