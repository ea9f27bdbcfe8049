"""Attention backends against each other and against the plain formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.attention.local import attend_blocked, attend_by_frame, attend_xla


def _qkv(rng, s, m, b=2, n=3, k=8, dtype=jnp.float32):
  shapes = ((b, s, n, k), (b, m, n, k), (b, m, n, k))
  return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def _formula(q, k, v):
  """In float64, straight from the definition."""
  q, k, v = (np.asarray(t, np.float64) for t in (q, k, v))
  logits = np.einsum("bsnk,bmnk->bnsm", q, k) / np.sqrt(q.shape[-1])
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return np.einsum("bnsm,bmnk->bsnk", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("s,m,block", [(1, 1, 4), (7, 5, 4), (8, 257, 4), (9, 3, 256)])
def test_backends_give_the_formula(rng, s, m, block):
  q, k, v = _qkv(rng, s, m)
  want = _formula(q, k, v)
  np.testing.assert_allclose(attend_xla(q, k, v), want, atol=2e-6)
  np.testing.assert_allclose(attend_blocked(q, k, v, block=block), want, atol=2e-6)


def test_gradients_of_blocked_are_those_of_xla(rng):
  q, k, v = _qkv(rng, 7, 5)
  loss = lambda attend: lambda *qkv: jnp.square(attend(*qkv)).sum()
  want = jax.grad(loss(attend_xla), (0, 1, 2))(q, k, v)
  got = jax.grad(loss(functools.partial(attend_blocked, block=4)), (0, 1, 2))(q, k, v)
  for g, w in zip(got, want, strict=True):
    np.testing.assert_allclose(g, w, atol=1e-5)


@pytest.mark.parametrize("attend", [attend_xla, attend_blocked])
def test_large_logits_do_not_overflow(rng, attend):
  q, k, v = _qkv(rng, 4, 6)
  np.testing.assert_allclose(attend(300 * q, k, v), _formula(300 * q, k, v), atol=1e-4)


@pytest.mark.parametrize("attend", [attend_xla, attend_blocked])
def test_bfloat16_accumulates_in_float32(rng, attend):
  q, k, v = _qkv(rng, 4, 4096, dtype=jnp.bfloat16)
  v = v + 1  # the mean of many: lost if the sum were kept in bfloat16
  out = attend(0 * q, k, v)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(out, np.float32), _formula(0 * q, k, v), rtol=2 ** -8)


@pytest.mark.parametrize("attend", [attend_xla, attend_blocked])
def test_logits_of_bfloat16_are_not_rounded(rng, attend):
  """At 30 bfloat16 has steps of 1/8, a weight would be off by as much."""
  q, k, v = _qkv(rng, 16, 16, dtype=jnp.bfloat16)
  out, want = attend(10 * q, k, v), _formula(10 * q, k, v)
  np.testing.assert_allclose(np.asarray(out, np.float32), want, atol=2e-2)


def test_blocked_never_holds_all_logits():
  abstract = jax.ShapeDtypeStruct((1, 4096, 4, 8), jnp.float32)
  loss = lambda q, k, v: attend_blocked(q, k, v, block=256).sum()
  compiled = jax.jit(jax.grad(loss)).lower(abstract, abstract, abstract).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 4096 * 4096 * 4 / 2


def test_each_frame_attends_to_its_own_keys(rng):
  b, positions, f, n, d, m = 2, 5, 3, 2, 8, 4
  q = jnp.asarray(rng.normal(size=(b, positions * f, n, d)), jnp.float32)
  k, v = (jnp.asarray(rng.normal(size=(b, f, m, n, d)), jnp.float32) for _ in range(2))
  got = attend_by_frame(q, k, v)
  for frame in range(f):
    want = _formula(q[:, frame::f], k[:, frame], v[:, frame])
    np.testing.assert_allclose(got[:, frame::f], want, atol=2e-6)


def test_frames_without_keys_get_zeros(rng):
  q, k, v = _qkv(rng, 6, 6)
  none = k.reshape(2, 2, 3, 3, 8)[:, :, :0]
  assert not attend_by_frame(q, none, none).any()
