"""Optimiser, clipping, learning rates and the moving average, against numbers worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.models.network import named_leaves
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.settings import OptimizerConfig
from emv3_jax.training.update import ema, optimizer
from emv3_jax.training.update.step import apply_gradients


def _rates(*stages, steps):
  return np.array([optimizer.learning_rate(stages, step) for step in range(steps)])


def test_learning_rates_of_all_stages():
  stages = (Stage("a", 4, learning_rate=1.0, warmup=2),
            Stage("b", 4, learning_rate=2.0, decay="linear", final_share=0.5),
            Stage("c", 5, learning_rate=1.0, warmup=1, decay="cosine"))
  linear = [2.0, 1.75, 1.5, 1.25]
  cosine = [1.0, 1.0, 0.5 + 0.5 ** 1.5, 0.5, 0.5 - 0.5 ** 1.5]
  np.testing.assert_allclose(_rates(*stages, steps=15), [
      0.5, 1.0, 1.0, 1.0, *linear, *cosine, 0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 20])
def test_learning_rates_are_those_of_the_formula(decay, warmup):
  stage = Stage("a", 20, learning_rate=3e-4, warmup=warmup, decay=decay, final_share=0.1)
  index = np.arange(25)
  done = np.clip((index - warmup) / max(1, 20 - warmup), 0, 1)
  left = {"constant": 1.0, "linear": 0.1 + 0.9 * (1 - done),
          "cosine": 0.1 + 0.45 * (1 + np.cos(np.pi * done))}[decay]
  want = 3e-4 * left * (np.minimum(1, (index + 1) / warmup) if warmup else 1)
  got = jax.vmap(lambda step: optimizer.learning_rate((stage,), step))(index)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, atol=2e-7 * stage.learning_rate, rtol=0)


def test_decay_begins_after_warm_up():
  np.testing.assert_allclose(
      _rates(Stage("a", 6, learning_rate=1.0, warmup=2, decay="linear"), steps=6),
      [0.5, 1.0, 1.0, 0.75, 0.5, 0.25], atol=1e-6)


def test_the_rate_goes_on_at_the_last_stage_s_end():
  np.testing.assert_allclose(
      _rates(Stage("a", 2, learning_rate=1.0, decay="linear", final_share=0.1), steps=5),
      [1.0, 0.55, 0.1, 0.1, 0.1], atol=1e-6)


def test_the_global_norm_and_what_is_clipped():
  tree = {"a": jnp.array([[3.0, 0.0]]), "b": {"c": jnp.array([4.0], jnp.bfloat16)}}
  assert optimizer.global_norm(tree) == 5.0
  assert optimizer.global_norm({"a": jnp.full(100, 1e-3, jnp.bfloat16)}).dtype == jnp.float32
  gradients = {"a": jnp.array([[3.0, 0.0]]), "b": {"c": jnp.array([4.0])}}
  for norm, factor in ((1.0, 0.2), (5.5, 1.0), (0.0, 1.0)):
    chex.assert_trees_all_close(optimizer.clipped(gradients, norm),
                                jax.tree.map(lambda leaf, by=factor: by * leaf, gradients), rtol=1e-6)
  zeros = jax.tree.map(jnp.zeros_like, gradients)
  chex.assert_trees_all_equal(optimizer.clipped(zeros, 1.0), zeros)


def test_unclipped_gradients_keep_their_bits(rng):
  gradients = {"a": jnp.asarray(rng.normal(size=7), jnp.float32)}
  chex.assert_trees_all_equal(optimizer.clipped(gradients, 100.0), gradients)


def _slow_adamw(leaf, gradients, decay, b1=0.9, b2=0.99, eps=1e-8, rate=0.1):
  first = second = 0.0
  for t, gradient in enumerate(gradients, 1):
    first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient ** 2
    direction = first / (1 - b1 ** t) / (np.sqrt(second / (1 - b2 ** t)) + eps)
    leaf = leaf - rate * (direction + decay * leaf)
  return leaf


def test_adamw_is_the_slow_one_and_only_kernels_decay(rng):
  shapes = {"blocks": {"q": {"kernel": (2, 3, 3), "bias": (2, 3)}, "modulation": (2, 6, 3)}}
  draw = lambda: jax.tree.map(lambda shape: rng.normal(size=shape), shapes,
                              is_leaf=lambda x: isinstance(x, tuple))
  params, steps = draw(), [draw() for _ in range(3)]
  transform = optimizer.make_optimizer(OptimizerConfig(b2=0.99, weight_decay=0.5))
  got, state = params, transform.init(params)
  for gradients in steps:
    direction, state = transform.update(gradients, state, got)
    got = jax.tree.map(lambda leaf, d: leaf - 0.1 * d, got, direction)
  for name, leaf in named_leaves(got).items():
    of = lambda tree, name=name: named_leaves(tree)[name]
    want = _slow_adamw(of(params), map(of, steps), 0.5 if name.endswith("kernel") else 0.0)
    np.testing.assert_allclose(leaf, want, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name, first", [("lion", 1.0), ("sgd", 3.0)])
def test_other_optimisers_give_their_direction(name, first):
  transform = optimizer.make_optimizer(OptimizerConfig(name=name, weight_decay=0.0))
  params = {"kernel": jnp.ones(2)}
  direction, _ = transform.update({"kernel": jnp.full(2, 3.0)}, transform.init(params), params)
  np.testing.assert_allclose(direction["kernel"], first)


def test_muon_s_steps_of_layers_are_orthogonal_and_as_long_as_adam_s(rng):
  transform = optimizer.make_optimizer(OptimizerConfig(name="muon", weight_decay=0.0))
  adam = optimizer.make_optimizer(OptimizerConfig(weight_decay=0.0))
  shapes = {"blocks": {"q": {"kernel": (3, 64, 16), "bias": (3, 16)}}, "head": {"kernel": (64, 16)}}
  gradients = jax.tree.map(lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes,
                           is_leaf=lambda x: isinstance(x, tuple))
  direction, _ = transform.update(gradients, transform.init(gradients), gradients)
  wanted, _ = adam.update(gradients, adam.init(gradients), gradients)
  for layer, gradient in zip(direction["blocks"]["q"]["kernel"], gradients["blocks"]["q"]["kernel"],
                             strict=True):
    left, _, right = np.linalg.svd(gradient, full_matrices=False)
    singular = np.diag(left.T @ layer @ right.T) / (optimizer.MUON_RMS * np.sqrt(64))
    assert 0.6 < singular.min() and singular.max() < 1.3  # Newton-Schulz stops near 1
    assert 0.15 < np.sqrt(np.square(layer).mean()) < 0.25
  for got, want in ((direction["blocks"]["q"]["bias"], wanted["blocks"]["q"]["bias"]),
                    (direction["head"]["kernel"], wanted["head"]["kernel"])):
    np.testing.assert_allclose(np.sign(got), np.sign(want))


def test_the_average_by_hand():
  params = [np.array([value], np.float32) for value in (1.0, 2.0, 4.0)]
  average = ema.init({"w": params[0]})
  for step, leaf in enumerate(params[1:]):
    average = ema.mix(average, {"w": leaf}, ema.warmed_up(0.15, step))
  # decays 1/10, then 0.15 rather than 2/11
  np.testing.assert_allclose(average["w"], 0.15 * (0.1 * 1 + 0.9 * 2) + 0.85 * 4, rtol=1e-6)


@pytest.mark.parametrize("params", [{"a": np.ones(1)}, {"b": np.ones(3)}])
def test_an_average_of_other_parameters_is_refused(params):
  """A shape of 1 would be broadcast."""
  with pytest.raises(AssertionError):
    ema.mix({"a": np.ones(3, np.float32)}, params, 0.5)


def test_gradients_of_other_parameters_are_refused():
  params = {"kernel": jnp.ones(3)}
  transform = optimizer.make_optimizer(OptimizerConfig())
  state = {"step": jnp.int32(0), "params": params, "ema": params, "opt_state": transform.init(params)}
  for gradients in ({"kernel": jnp.ones(1)}, {"kernel": jnp.ones(3, jnp.bfloat16)}):
    with pytest.raises(AssertionError):
      apply_gradients(state, params, {}, gradients, transform, (Stage("a", 2),), clip=1.0,
                      ema_decay=0.9)


def test_the_average_is_float32_and_slow_in_the_end():
  average = ema.init({"w": jnp.ones(1, jnp.bfloat16)})
  assert average["w"].dtype == jnp.float32
  new = {"w": jnp.full(1, 2.0, jnp.bfloat16)}
  moved = ema.mix(average, new, ema.warmed_up(0.9999, 10 ** 7))
  np.testing.assert_allclose(moved["w"], 1.0001, rtol=1e-6)
