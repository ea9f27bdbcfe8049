"""umT5 against the reference's numbers, streamed against whole, masks, and memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.models import umt5
from emv3_jax.models.precision import FLOAT32, Precision
from tests import golden_data
from tests.models import official_encoders

TINY = umt5.UMT5Config(vocab_size=300, dim=64, attention_dim=48, ffn_dim=96, num_heads=4,
                       num_layers=3)
BF16_STORED = Precision(params="bfloat16")
BF16 = Precision("bfloat16", "bfloat16")


def _params(precision=FLOAT32):
  weights = golden_data.load("t5", "weights").arrays
  return official_encoders.convert(official_encoders.UMT5, weights, TINY.num_layers, precision)


@functools.cache
def _encoder(precision):
  model = umt5.network(TINY, precision)
  return jax.jit(lambda params, *args: model.bind(params)(*args))


def _encode(ids, mask=None, precision=FLOAT32, params=None):
  return _encoder(precision)(_params(precision) if params is None else params, ids, mask)


@golden_data.cases("t5", "case_*")
def test_equals_reference(name):
  case = golden_data.load("t5", name)
  out = _encode(case["in.input_ids"], case["in.attention_mask"])
  for row, length in enumerate(case.meta["lens"]):
    golden_data.check("umT5", out[row, :length], case[f"out.row{row}_trimmed"], 1e-5)
  golden_data.check("umT5", _encode(case["in.nomask_ids"]), case["out.nomask"], 1e-5)


def test_position_buckets_equal_reference():
  case = golden_data.load("t5", "rel_buckets")
  want = dict(zip(case["rel_pos(k-q)"], case["bucket"], strict=True))
  length = max(want) + 1
  buckets = umt5.position_buckets(length, case.meta["num_buckets"], case.meta["max_dist"])
  for query in (0, 300, length - 1):
    np.testing.assert_array_equal(buckets[query], [want[key - query] for key in range(length)])


def _stream(params, ids, mask=None, precision=FLOAT32, before_layer=lambda: None):
  def load_layer(index):
    before_layer()
    return jax.tree.map(lambda leaf: leaf[index], params["blocks"])

  return umt5.encode_streaming(
      TINY, precision, lambda: jax.tree.map(np.asarray, params["token_embedding"]), load_layer,
      lambda: params["norm"], ids, mask)


@pytest.mark.parametrize("precision", [FLOAT32, BF16_STORED, BF16])
def test_streaming_equals_whole(precision, rng):
  ids = rng.integers(0, TINY.vocab_size, (2, 24), np.int32)
  mask = np.arange(24) < np.array([[24], [9]])
  whole = np.asarray(_encode(ids, mask, precision))
  streamed = _stream(_params(precision), ids, mask, precision)
  assert streamed.dtype == whole.dtype == jnp.float32
  np.testing.assert_allclose(streamed, whole, atol=2e-6 * np.abs(whole).max())


def test_streaming_keeps_one_layer_alive():
  params = _params()
  kernels = lambda: sum(x.shape == (TINY.dim, TINY.ffn_dim) for x in jax.live_arrays())
  elsewhere, alive = kernels(), []
  _stream(params, np.zeros((1, 5), np.int32), before_layer=lambda: alive.append(kernels()))
  assert alive == [elsewhere] * TINY.num_layers


def test_masked_tokens_do_not_matter(rng):
  ids = rng.integers(0, TINY.vocab_size, (1, 16), np.int32)
  mask = np.arange(16)[None] < 10
  out = _encode(ids, mask)
  np.testing.assert_allclose(_encode(np.where(mask, ids, 7), mask)[:, :10], out[:, :10], atol=1e-6)
  np.testing.assert_allclose(_encode(ids[:, :10]), out[:, :10], atol=1e-5)
  assert np.abs(_encode(ids)[:, :10] - out[:, :10]).max() > 1e-2


def test_bfloat16_is_close(rng):
  ids = rng.integers(0, TINY.vocab_size, (2, 20), np.int32)
  rounded = jax.tree.map(lambda w: w.astype(jnp.float32), _params(BF16))
  want = np.asarray(_encode(ids, params=rounded))
  stored = _encode(ids, precision=BF16_STORED)
  np.testing.assert_allclose(stored, want, atol=1e-5 * np.abs(want).max())
  computed = _encode(ids, precision=BF16)
  assert np.linalg.norm(computed - want) / np.linalg.norm(want) < 3e-2


def test_bfloat16_stack_is_never_float32():
  """Six layers of 3 MiB and a table of 8 MiB, both in bfloat16: temporaries hold one layer."""
  config = dataclasses.replace(TINY, vocab_size=2**13, dim=512, attention_dim=256, ffn_dim=768,
                               num_layers=6)
  model = umt5.network(config, BF16_STORED)
  ids = jax.ShapeDtypeStruct((1, 16), jnp.int32)
  encode = jax.jit(lambda params, ids: model.bind(params)(ids))
  temporary = encode.lower(model.abstract, ids).compile().memory_analysis().temp_size_in_bytes
  layer = sum(leaf.size for leaf in jax.tree.leaves(model.abstract["blocks"])) / 6 * 4
  assert temporary < 1.5 * layer


def test_full_size_has_the_released_number_of_parameters():
  assert umt5.network(umt5.UMT5Config()).num_params() == 5_680_910_336


def test_bad_input_is_named():
  with pytest.raises(ValueError, match=r"ids \(3,\).*\[batch, tokens\]"):
    _encode(np.zeros(3, np.int32))
  with pytest.raises(ValueError, match=r"mask \(1, 4\)"):
    _encode(np.zeros((1, 3), np.int32), np.ones((1, 4)))
  with pytest.raises(ValueError, match=r"5\.\.300, the vocabulary has 300"):
    _stream(_params(), np.array([[5, 300]]))
