"""Causal convolution: against sums written out, in pieces, and in its two forms."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.models.causal_conv import CausalCache, CausalConv, conv3d, run_in_chunks
from emv3_jax.models.precision import FLOAT32


def make_conv(time_stride=1, kernel_size=(3, 3, 3)):
  conv = CausalConv(2, 3, kernel_size, time_stride=time_stride, precision=FLOAT32, method="auto",
                    rngs=nnx.Rngs(0))
  conv.bias[...] = jax.numpy.arange(3.0)
  return conv


def feed(conv, x, pieces):
  """`x` through `conv` one piece after the other, the first of them a single frame."""
  cache, parts, start = CausalCache(), [], 0
  for size in pieces:
    parts.append(conv(x[:, start:start + size], cache))
    cache, start = CausalCache(cache.stored), start + size
  return np.concatenate(parts, axis=1)


def written_out(x, kernel, bias):
  """The definition: zeros before the clip and around the picture."""
  _, time, height, width, _ = x.shape
  x = np.pad(np.asarray(x, np.float64), [(0, 0), (2, 0), (1, 1), (1, 1), (0, 0)])
  y = np.zeros((x.shape[0], time, height, width, kernel.shape[-1])) + bias
  for t in range(3):
    for i in range(3):
      for j in range(3):
        window = x[:, t:t + time, i:i + height, j:j + width]
        y += window @ kernel[t, i, j].astype(np.float64)
  return y


@pytest.mark.parametrize("pieces", [(1, 6), (1, 1, 1, 1, 1, 1, 1), (1, 2, 4)])
def test_pieces_give_the_definition(rng, pieces):
  conv = make_conv()
  x = jnp.asarray(rng.normal(size=(2, 7, 4, 5, 2)), jnp.float32)
  want = written_out(x, np.asarray(conv.kernel[...]), np.asarray(conv.bias[...]))
  np.testing.assert_allclose(feed(conv, x, pieces), want, atol=1e-5)


@pytest.mark.parametrize("time_stride", [1, 2])
def test_two_forms_agree(rng, time_stride):
  x = jnp.asarray(rng.normal(size=(2, 5, 6, 4, 2)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 2, 4)), jnp.float32)
  options = dict(time_stride=time_stride, padding=((1, 1), (1, 1)), precision=FLOAT32)
  direct, taps, auto = (
      conv3d(x, kernel, method=method, **options) for method in ("direct", "taps", "auto"))
  assert direct.shape == (2, 2 if time_stride == 2 else 3, 6, 4, 4)
  np.testing.assert_allclose(taps, direct, atol=1e-5)
  np.testing.assert_array_equal(auto, taps)  # tests run on CPU


def test_windows_of_time_stride_two(rng):
  """After frame 0 the windows are (0, 1, 2), (2, 3, 4), ..."""
  conv = make_conv(time_stride=2, kernel_size=(3, 1, 1))
  x = jnp.asarray(rng.normal(size=(1, 7, 1, 1, 2)), jnp.float32)
  cache = CausalCache()
  cache.store(x[:, :1], conv.history)
  first = conv(x[:, 1:3], cache := CausalCache(cache.stored))
  others = conv(x[:, 3:], CausalCache(cache.stored))
  got = np.concatenate([first, others], axis=1)[0, :, 0, 0]
  kernel = np.asarray(conv.kernel[...])[:, 0, 0]
  want = [sum(x[0, 2 * i + k, 0, 0] @ kernel[k] for k in range(3)) for i in range(3)]
  np.testing.assert_allclose(got, want + np.arange(3.0), atol=1e-5)


def test_later_frames_are_not_seen(rng):
  conv = make_conv()
  x = jnp.asarray(rng.normal(size=(1, 5, 4, 4, 2)), jnp.float32)
  changed = x.at[:, 3:].add(1)
  before, after = feed(conv, x, (1, 4)), feed(conv, changed, (1, 4))
  np.testing.assert_array_equal(before[:, :3], after[:, :3])
  assert np.abs(before[:, 3] - after[:, 3]).min() > 0


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_nested_pieces(rng, size):
  """Layers inside `in_chunks` inside a scan, with remainders, equal one pass."""
  conv = make_conv()
  x = jnp.asarray(rng.normal(size=(2, 8, 4, 4, 2)), jnp.float32)

  def run(cache, start, count):
    frames = jax.lax.dynamic_slice_in_dim(x, start, count, axis=1)
    return cache.in_chunks(lambda frames, cache: conv(frames, cache), frames, 2)

  cache = CausalCache()
  first = run(cache, 0, 1)
  others, _ = run_in_chunks(run, cache.stored, 1, 8, size)
  got = np.concatenate([first, others], axis=1)
  np.testing.assert_allclose(got, feed(conv, x, (1, 7)), atol=1e-6)


def test_even_kernels_pad_the_larger_half_behind(rng):
  """A window of two at row i covers rows i and i + 1; a 0 stands below the last."""
  conv = make_conv(kernel_size=(1, 2, 1))
  x = jnp.asarray(rng.normal(size=(1, 1, 3, 1, 2)), jnp.float32)
  kernel = np.asarray(conv.kernel[...])[0, :, 0]
  below = np.pad(x[0, 0, 1:, 0], ((0, 1), (0, 0)))
  want = x[0, 0, :, 0] @ kernel[0] + below @ kernel[1] + np.arange(3.0)
  np.testing.assert_allclose(conv(x, CausalCache())[0, 0, :, 0], want, atol=1e-5)
