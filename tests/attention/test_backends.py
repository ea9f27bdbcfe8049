"""What each backend serves and refuses; splash against the reference in Pallas' interpreter."""

import functools
import importlib.util
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.attention import backends
from emv3_jax.attention.local import attend_xla
from emv3_jax.attention.splash import attend_splash
from emv3_jax.errors import InputError


def _qkv(s, m, *, n=2, k=32, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  return tuple(jnp.asarray(rng.normal(size=(2, length, n, k)), dtype) for length in (s, m, m))


@pytest.mark.parametrize("platform,name", [("cpu", "blocked"), ("gpu", "cudnn"), ("tpu", "splash")])
def test_auto_is_explicit_and_logged(platform, name, caplog):
  caplog.set_level(logging.INFO)
  assert backends.select("auto", platform).name == name
  assert f"Attention backend on {platform}: {name}." in caplog.text


@pytest.mark.parametrize("name,platform,message", [
    ("splash", "cpu", "splash runs on tpu, not on cpu; use auto, which is blocked there"),
    ("cudnn", "tpu", "cudnn runs on gpu, not on tpu; use auto, which is splash there"),
    ("blocks", "cpu", "'blocks'; did you mean 'blocked'"),
    ("auto", "neuron", "No attention backend for platform neuron"),
    ("tokamax", "gpu", "names no tokamax kernel; write tokamax:KERNEL with one of mosaic_gpu"),
    ("tokamax:xla", "gpu", "names no tokamax kernel")])
def test_unknown_names_and_platforms(name, platform, message):
  with pytest.raises(InputError, match=message):
    backends.select(name, platform)


@pytest.mark.parametrize("name,platform", [("splash", "tpu"), ("cudnn", "gpu")])
def test_kernels_refuse_float32(name, platform):
  with pytest.raises(InputError, match=f"{name} serves bfloat16, not float32; .* blocked"):
    backends.select(name, platform)(*_qkv(4, 4))


@pytest.mark.parametrize("name,platform,shape,reason", [
    ("xla", "cpu", (1, 66_816, 12, 128), "would take 199.6 GiB, 1 is allowed; .* blocked"),
    ("cudnn", "gpu", (1, 64, 1, 384), "a head of 384 is not a multiple of 8 up to 128; .* blocked")])
def test_shapes_that_are_refused(name, platform, shape, reason):
  abstract = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
  with pytest.raises(InputError, match=reason):
    jax.eval_shape(backends.select(name, platform), abstract, abstract, abstract)


@pytest.mark.parametrize("name", ["blocked", "xla"])
def test_plain_backends(name):
  np.testing.assert_allclose(backends.select(name)(*_qkv(9, 5)), attend_xla(*_qkv(9, 5)), atol=2e-6)


@pytest.mark.parametrize("s,m", [(130, 257), (256, 128)], ids=["padded", "whole blocks"])
def test_splash_is_the_reference_forward_and_backward(s, m):
  qkv = _qkv(s, m)
  weights = jnp.asarray(np.random.default_rng(1).normal(size=qkv[0].shape), jnp.float32)
  splash = functools.partial(attend_splash, block=128, interpret=True)

  def loss(attend, *qkv):
    out = attend(*qkv)
    return jnp.sum(out * weights), out

  def run(attend):
    return jax.jit(jax.value_and_grad(functools.partial(loss, attend), (0, 1, 2), has_aux=True))(
        *qkv)

  ((_, got), got_gradients), ((_, want), want_gradients) = run(splash), run(attend_xla)
  np.testing.assert_allclose(got, want, atol=2e-6)
  for g, w in zip(got_gradients, want_gradients, strict=True):
    np.testing.assert_allclose(g, w, atol=1e-5)


def test_splash_in_bfloat16():
  qkv = _qkv(100, 200, n=1, dtype=jnp.bfloat16)
  got = np.asarray(attend_splash(*qkv, interpret=True), np.float32)
  want = np.asarray(attend_xla(*(t.astype(jnp.float32) for t in qkv)))
  assert np.linalg.norm(got - want) <= 1e-2 * np.linalg.norm(want)


def _lowered(attend, platform, s=600, m=600):
  q, k = (jax.ShapeDtypeStruct((1, length, 2, 128), jnp.bfloat16) for length in (s, m))
  loss = lambda q, k, v: attend(q, k, v).astype(jnp.float32).sum()
  gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
  return gradient.trace(q, k, k).lower(lowering_platforms=(platform,)).as_text()


def test_splash_becomes_a_tpu_kernel():
  text = _lowered(backends.select("splash", "tpu"), "tpu")
  assert text.count("@tpu_custom_call") == 3  # forward, gradient of q, gradient of k and v
  assert "1x2x600x600" not in text and "1x2x1024x1024" not in text


def test_cudnn_becomes_its_fused_call(monkeypatch):
  """The layout that cuDNN is handed, without cuDNN: batch, length, heads, head."""
  from jax._src.cudnn import fused_attention_stablehlo as fused
  monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
  text = _lowered(backends.select("cudnn", "gpu"), "cuda")
  assert "__cudnn$fmhaSoftmax(" in text and "__cudnn$fmhaSoftmaxBackward(" in text
  assert "1x600x2x128xbf16" in text and "600x600" not in text


def test_cudnn_learns_from_odd_lengths(monkeypatch):
  from jax._src.cudnn import fused_attention_stablehlo as fused
  monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
  text = _lowered(backends.select("cudnn", "gpu"), "cuda", s=601, m=257)
  assert "1x602x2x128xbf16" in text and "1x258x2x128xbf16" in text
  assert "dense<601>" in text and "dense<257>" in text  # what of it counts


def test_cudnn_says_why_it_cannot_run(monkeypatch):
  from jax._src.cudnn import fused_attention_stablehlo as fused

  def absent():
    raise RuntimeError("cuDNN is not detected.")
  monkeypatch.setattr(fused, "check_cudnn_version", absent)
  with pytest.raises(InputError, match="cudnn cannot serve .*: cuDNN is not detected; .* blocked"):
    _lowered(backends.select("cudnn", "gpu"), "cuda")


@pytest.mark.skipif(importlib.util.find_spec("tokamax") is not None, reason="tokamax is installed")
def test_tokamax_missing_names_the_command():
  with pytest.raises(InputError, match=r"needs the package tokamax; run pip .* '\.\[tokamax\]'"):
    backends.select("tokamax:xla_chunked", "cpu")


def test_tokamax_is_the_reference():
  pytest.importorskip("tokamax", reason="needs the extra tokamax")
  attend = backends.select("tokamax:xla_chunked", "cpu")
  np.testing.assert_allclose(attend(*_qkv(9, 5)), attend_xla(*_qkv(9, 5)), atol=2e-6)


@pytest.mark.parametrize("kernel,platform", [("triton", "gpu"), ("mosaic_tpu", "tpu")])
def test_tokamax_says_why_it_cannot_run(kernel, platform):
  pytest.importorskip("tokamax", reason="needs the extra tokamax")
  with pytest.raises(InputError, match=f"{kernel} cannot serve .*: .* on cpu; .* blocked"):
    backends.select(f"tokamax:{kernel}", platform)(*_qkv(9, 5))
