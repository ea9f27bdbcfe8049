"""What the small default's text encoder is trained on and for."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from emv3_jax.conditioning.text import Tokenizer
from emv3_jax.configs import tiny
from emv3_jax.models import umt5
from emv3_jax.puppets.judging import gates
from emv3_jax.puppets.training import text
from emv3_jax.puppets.training.settings import TextSettings
from emv3_jax.puppets.world import clips

SETTINGS = TextSettings(batch=16, steps=40)


@pytest.fixture(scope="module")
def tokenizer():
  return Tokenizer.load(tiny.ASSETS / "tokenizer.json")


@pytest.fixture(scope="module")
def network():
  return umt5.network(dataclasses.replace(tiny.MODEL.text_encoder, num_layers=1))


@pytest.mark.parametrize("index", range(12))
def test_captions_are_made_of_their_phrases(index):
  spec = clips.clip_spec(3, index, "crowd")
  caption = clips.caption(spec).lower()
  told = [name for _, names in clips.phrases(spec) for name in names]
  assert set(told) == set(text.ATTRIBUTES) - (set() if spec.flaw else {"flaw"})
  assert all(phrase.lower() in caption for phrase, names in clips.phrases(spec) if names != ("flaw",))


def test_labels_are_what_a_clip_shows():
  spec = clips.clip_spec(0, 0, "held_out")
  label = text.labels(spec)
  read = {name: options[label[name]] for name, options in text.ATTRIBUTES.items()}
  assert read["gesture"] == spec.gesture and read["fingers"] == spec.fingers
  assert read["hair_style"] == spec.identity.hair_style and read["flaw"] == "" and read["talks"]


def test_fragments_tell_what_they_say():
  whole, some = (dataclasses.replace(SETTINGS, fragments=share) for share in (0.0, 1.0))
  for number in range(8):
    caption, told = text.example(whole, "crowd", number)
    fragment, fewer = text.example(some, "crowd", number)
    assert text.UNTOLD not in told.values() and len(fragment) < len(caption)
    assert all(label in (told[name], text.UNTOLD) for name, label in fewer.items())
    gesture = clips.GESTURES[told["gesture"]]
    assert (gesture in fragment) == (fewer["gesture"] != text.UNTOLD)


def test_hair_and_what_is_worn_come_in_all_pairs():
  told = [text.example(SETTINGS, "crowd", number)[1] for number in range(400)]
  seen = {(each["hair"], each["hair_style"]) for each in told if text.UNTOLD not in each.values()}
  assert len(seen) > 45  # of 49; the crowd's puppets have fewer


def test_a_batch_is_a_function_of_its_step(tokenizer):
  one, same, next_ = (text.batch(SETTINGS, tokenizer, step) for step in (4, 4, 5))
  jax.tree.map(np.testing.assert_array_equal, one, same)
  assert (one["ids"] != next_["ids"]).any()
  assert one["ids"].shape == one["mask"].shape == (16, SETTINGS.tokens)


def test_training_makes_tokens_tell(tokenizer, network):
  params = text.init_params(network, SETTINGS)
  settings = dataclasses.replace(SETTINGS, steps=10)
  before = gates.check_text(network, params["encoder"], settings, tokenizer)
  optimizer = optax.adam(1e-2)
  loss, state = text.make_loss(network), optimizer.init(params)

  @jax.jit
  def step(params, state, batch):
    gradients = jax.grad(lambda params: loss(params, batch, 0)[0])(params)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state

  for index in range(SETTINGS.steps):
    params, state = step(params, state, text.batch(SETTINGS, tokenizer, index))
  after = gates.check_text(network, params["encoder"], settings, tokenizer)
  assert after["read"] > before["read"] + 0.05
