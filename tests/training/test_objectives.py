"""How objectives are put together, with a network that is a number; nothing large is compiled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.training.batch import Batch
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.monitor import previews
from emv3_jax.training.objectives import losses
from emv3_jax.training.objectives.draws import draw
from emv3_jax.training.objectives.forward import Forward
from emv3_jax.training.settings import LossConfig, NDPOConfig, OptimizerConfig
from emv3_jax.training.update.step import make_train_step
from tests.training import tiny

ROPE = (np.zeros((1, 1), np.float32),) * 2  # no network looks at it
SGD = OptimizerConfig(name="sgd", b1=0.0, weight_decay=0.0, clip=0.0)
FLASH = dataclasses.replace(tiny.NETWORK, variant="flash", audio_layers=2, audio_hidden=16,
                            audio_tokens=3)


def batch_of(values, first=0) -> Batch:
  """A batch whose clips have these values; `errors` looks for them in the mouth's mask."""
  batch = tiny.batch_of(range(first, first + len(values)))
  value = np.float32(values)[:, None, None, None]
  return dataclasses.replace(batch, mouth_mask=np.broadcast_to(value, batch.mouth_mask.shape))


class Errors(Forward):
  """A forward pass whose errors are those of a function."""

  def __init__(self, errors, mesh=None):
    self.errors, self._mesh = errors, mesh

  mesh = property(lambda self: self._mesh)

  def constrain(self, batch):
    return batch


def errors(params, batch, draws, rope, weights=None):
  """A network whose error on a clip is the parameter times the clip's value."""
  return params["kernel"] * batch.mouth_mask[:, 0, 0, 0]


@pytest.mark.parametrize("weight", [0.0, 0.25, 3.0])
def test_positives_count_with_their_weight_in_loss_and_gradient(weight):
  config = tiny.config_of(Stage("n", 9, kind="ndpo", learning_rate=0.1), optimizer=SGD,
                          ndpo=NDPOConfig(beta=2.0, sft_weight=weight))
  programs = tiny.programs_of(config)
  forward = Errors(errors, programs.mesh)
  step = make_train_step(config, forward, programs.optimizer, "ndpo", "all")
  params = {"kernel": jnp.float32(1.5)}
  state = {"step": jnp.int32(0), "params": params, "ema": params, "reference": {"kernel": jnp.float32(1.0)},
           "opt_state": programs.optimizer.init(params), "calibration": losses.init_calibration()}
  batches = {"batch": batch_of([0.5, 1.0]), "positives": batch_of([2.0, 4.0], first=5)}
  new, told = jax.jit(step)(state, batches, tiny.EMPTY_TEXT, ROPE)
  rise = 0.5 * np.array([0.5, 1.0])  # of d above the reference's
  terms = np.log1p(np.exp(-2 * rise))
  slopes = -2 * np.array([0.5, 1.0]) / (1 + np.exp(2 * rise))
  np.testing.assert_allclose(told["loss"], terms.mean() + weight * 1.5 * 3.0, rtol=1e-6)
  np.testing.assert_allclose(told["grad_norm"], abs(slopes.mean() + weight * 3.0), rtol=1e-5)
  np.testing.assert_allclose(new["params"]["kernel"], 1.5 - 0.1 * (slopes.mean() + weight * 3.0),
                             rtol=1e-6)


def test_pairs_are_a_positive_and_a_negative():
  config = tiny.config_of(ndpo=NDPOConfig(beta=2.0))
  forward = Errors(errors)
  pair = {"batch": batch_of([0.5, 1.0]), "positives": batch_of([2.0, 4.0], first=5)}
  objective = losses.dpo_objective(forward, config.objective, jnp.int32(0), ROPE, {"kernel": jnp.float32(1.0)})
  loss, told = objective({"kernel": jnp.float32(1.5)}, pair)
  np.testing.assert_allclose(told["d"], [0.75, 1.5])
  np.testing.assert_allclose(told["d_positive_ref"], [2.0, 4.0])
  margin = 0.5 * np.array([2.0, 4.0]) - 0.5 * np.array([0.5, 1.0])  # the positive's rise is worse
  np.testing.assert_allclose(loss, np.log1p(np.exp(2 * margin)).mean(), rtol=1e-6)


def test_what_is_lost_is_lost_to_the_network():
  """Flow matching sees the conditions without what was dropped, and weighs regions all the same."""
  dropout = dataclasses.replace(tiny.config_of().dropout, audio=0.0, audio_text=1.0, everything=0.0)
  config, seen = tiny.config_of(dropout=dropout), {}

  def errors(params, batch, draws, rope, weights):
    seen.update(vars(batch))
    return jnp.zeros(len(batch.text))

  batch = tiny.batch_of(range(3))
  forward = Errors(errors)
  objective = losses.sft_objective(forward, config.objective, jnp.int32(0),
                                   jnp.asarray(tiny.EMPTY_TEXT), ROPE)
  objective({}, {"batch": batch})
  np.testing.assert_array_equal(seen["text"][:, :2], np.stack([tiny.EMPTY_TEXT] * 3))
  assert not np.any(seen["text"][:, 2:]) and not np.any(seen["audio"])
  np.testing.assert_array_equal(seen["masked_latents"], batch.masked_latents)


@pytest.mark.parametrize("network, masked", [(tiny.NETWORK, True), (FLASH, False)])
def test_the_face_mask_is_the_preview_s_alone(network, masked, monkeypatch):
  forward, seen = Forward(sharding.on_mesh(network)), {}

  class Model:
    def embed_context(self, *_, **__):
      return None

    def __call__(self, x, *_, face_mask, **__):
      seen["face_mask"] = face_mask
      return x

  monkeypatch.setattr(type(forward.network), "bind", lambda *_: Model())
  batch = tiny.batch_of(range(2))
  draws = draw(0, LossConfig(), jnp.int32(0), batch.example, batch.latents.shape[1:])
  forward.velocity({}, batch, draws, forward.rope(batch.latents.shape))
  assert (seen["face_mask"] is batch.face_mask) if masked else (seen["face_mask"] is None)


def test_held_out_loss_is_of_what_is_not_given(rng):
  """Cells of which any frame is to be drawn count alike, those that are known not at all."""
  config = tiny.config_of()
  held_out, seen = previews.HeldOut.__new__(previews.HeldOut), {}

  def errors(params, batch, draws, rope, weights):
    seen["weights"] = np.asarray(weights)
    return jnp.zeros(len(batch.mask))

  held_out._config = config
  held_out._forward = Errors(errors)
  batch = tiny.batch_of(range(2))
  mask = np.ones_like(batch.mask)
  mask[0, 1], mask[1, 0, :4, :, 0] = 0, 0  # a latent frame; a frame of half the cells of another
  told = held_out._measure({}, dataclasses.replace(batch, mask=mask), jnp.float32(0.3), ROPE)
  drawn = (mask < 1).any(axis=-1)
  for row in range(2):
    np.testing.assert_allclose(seen["weights"][row], drawn[row] / drawn[row].mean(), rtol=1e-6)
  np.testing.assert_allclose(told["moments"][0, 0], batch.latents[0, 1].mean(axis=(0, 1)), atol=1e-5)
