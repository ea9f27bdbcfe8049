"""Layer norm and RMS norm against their formulas, and where they round."""

import jax.numpy as jnp
import numpy as np

from emv3_jax.models.norms import LayerNorm, RMSNorm, modulated_norm
from emv3_jax.models.precision import FLOAT32, Precision


def _standard(x, eps):
  x = np.float64(x)
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def _faint(rng):
  """Numbers whose variance is as small as the epsilon of the tests, 0.01."""
  return jnp.asarray(3 + 0.1 * rng.normal(size=(2, 5, 8)), jnp.float32)


def test_layer_norm(rng):
  norm, x = LayerNorm(8, eps=0.01, precision=FLOAT32), _faint(rng)
  norm.scale[...], norm.bias[...] = jnp.arange(8.0), jnp.arange(8.0)[::-1]
  want = _standard(x, 0.01) * np.arange(8) + np.arange(8)[::-1]
  np.testing.assert_allclose(norm(x), want, atol=1e-4)


def test_rms_norm(rng):
  norm, x = RMSNorm(8, eps=0.01, precision=FLOAT32), 0.1 * (_faint(rng) - 3)
  norm.scale[...] = jnp.arange(8.0)
  want = np.float64(x) / np.sqrt(np.square(np.float64(x)).mean(-1, keepdims=True) + 0.01)
  np.testing.assert_allclose(norm(x), want * np.arange(8), atol=1e-5)


def test_modulation(rng):
  x, (shift, scale) = _faint(rng), jnp.asarray(rng.normal(size=(2, 2, 1, 8)), jnp.float32)
  want = _standard(x, 0.01) * (1 + scale) + shift
  np.testing.assert_allclose(modulated_norm(x, shift, scale, 0.01), want, atol=1e-4)


def test_half_precision_is_normalised_in_float32(rng):
  x = jnp.asarray(100 + rng.normal(size=(1, 3, 512)), jnp.bfloat16)
  norm = LayerNorm(512, eps=1e-6, precision=Precision("bfloat16", "bfloat16"))
  got = norm(x)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(got), _standard(np.float32(x), 1e-6), rtol=2 ** -8, atol=1e-5)


def test_the_gain_acts_on_what_was_rounded(rng):
  """So were the released weights run."""
  norm = RMSNorm(64, eps=1e-6, precision=Precision("bfloat16", "bfloat16"))
  norm.scale[...] = jnp.asarray(1 + 0.3 * rng.normal(size=64), jnp.bfloat16)
  x = jnp.asarray(rng.normal(size=(4, 64)), jnp.bfloat16)
  x32 = np.float32(x)
  rounded = jnp.asarray(x32 / np.sqrt(np.square(x32).mean(-1, keepdims=True) + 1e-6), jnp.bfloat16)
  np.testing.assert_array_equal(np.float32(norm(x)), np.float32(rounded * norm.scale[...]))
