"""What the network is given in training and in sampling; the network itself does not run."""

import dataclasses

import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.sampling import clip as clip_lib
from emv3_jax.sampling import one_window
from emv3_jax.sampling.denoise import Conditions
from emv3_jax.training.objectives.draws import Draws
from emv3_jax.training.objectives.forward import Forward
from tests.preparation.preparing import close


class _Network:
  """In the place of the transformer: keeps what it is called with."""

  def bind(self, params):
    return self

  def embed_context(self, text, image, audio, execution):
    self.context = {"text": text, "image": image, "audio": audio}

  def __call__(self, x, condition, sinusoid, context, *, face_mask, **options):
    self.condition, self.face_mask = condition, face_mask
    return x


def in_training(model, batch) -> dict:
  """What the forward pass of training gives the network of a batch."""
  given = _Network()
  transformer = sharding.on_mesh(model.config.model.transformer)
  forward = Forward(dataclasses.replace(transformer, network=given))
  zeros = np.zeros_like(batch.latents)
  forward.velocity({}, batch, Draws(np.float32([0.5]), zeros, None),
                   rope=(np.zeros((1, 1), np.float32),) * 2)
  return {**given.context, "condition": given.condition, "face_mask": given.face_mask}


class _Stopped(Exception):
  pass


def in_sampling(model, request, monkeypatch) -> Conditions:
  """What sampling gives the network of a request."""
  def denoise(model, inputs, conditions, profile, progress):
    raise _Stopped(conditions)

  monkeypatch.setattr(one_window, "denoise", denoise)
  with pytest.raises(_Stopped) as stopped:
    clip_lib.sample(model, request)
  return stopped.value.args[0]


def check_same(training: dict, sampling: Conditions, variant: str) -> None:
  """Checks that all conditions of a clip agree."""
  close(training["text"], sampling.text["prompt"])
  for name in ("image", "audio", "condition"):
    close(training[name], getattr(sampling, name))
  if variant == "flash":
    assert training["face_mask"] is None and sampling.face_mask is None
  elif sampling.face_mask is None:
    assert np.all(training["face_mask"] == 1), "None stands for everywhere"
  else:
    same = np.asarray(sampling.face_mask)
    if same.ndim < training["face_mask"].ndim:  # the same in every frame
      same = np.broadcast_to(same[..., None], training["face_mask"].shape)
    np.testing.assert_array_equal(training["face_mask"], same)
