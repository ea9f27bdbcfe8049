"""An attention backend made outside the package, with its public pieces alone."""

import jax
import numpy as np
import pytest

from emv3_jax.attention import backends
from emv3_jax.errors import InputError
from emv3_jax.sampling.settings import SamplingConfig
from tests.sharding import tiny

SHAPES = []


def attend(q, k, v):
  SHAPES.append((q.shape, k.shape))
  return jax.nn.dot_product_attention(q, k, v)


PLAIN = backends.Backend("plain", ("cpu", "gpu"), ("float32",), attend)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
  monkeypatch.setattr(backends, "BACKENDS", dict(backends.BACKENDS))
  backends.register(PLAIN)


def test_a_clip_is_sampled_with_it():
  got, want = (tiny.sampled(SamplingConfig(attention=name, steps=1, neg_steps=0))
               for name in ("plain", "blocked"))
  np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
  assert {keys[1] for _, keys in SHAPES} == {72, 8, 5}, "of the video, the text, the image"


def test_its_name_is_known_and_its_own():
  assert backends.select("plain", "cpu") is PLAIN
  with pytest.raises(InputError, match="plain runs on cpu and gpu, not on tpu"):
    backends.select("plain", "tpu")
  with pytest.raises(InputError, match="'plane'; did you mean 'plain'"):
    SamplingConfig(attention="plane")
  backends.register(PLAIN)
  with pytest.raises(ValueError, match="backend 'xla' already"):
    backends.register(backends.Backend("xla", ("cpu",), ("float32",), attend))
  with pytest.raises(ValueError, match="cannot be named 'auto'"):
    backends.register(backends.Backend("auto", ("cpu",), ("float32",), attend))
