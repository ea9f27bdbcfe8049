"""Gradients written by hand are those of the convolution itself."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.models.convolution import convolve

CASES = {  # input, kernel, strides, padding
    "same": ((2, 9, 8, 3), (3, 3, 3, 5), (1, 1), ((1, 1), (1, 1))),
    "halving": ((2, 8, 10, 3), (3, 3, 3, 5), (2, 2), ((0, 1), (0, 1))),
    "rest beyond the stride": ((1, 9, 12, 2), (2, 3, 2, 2), (3, 2), ((0, 0), (2, 0))),
    "waveform": ((2, 41, 3), (10, 3, 4), (5,), ((0, 0),)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradients(case):
  shape, kernel_shape, strides, padding = case
  rng = np.random.default_rng(0)
  x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (shape, kernel_shape))
  numbers = {3: ("NWC", "WIO", "NWC"), 4: ("NHWC", "HWIO", "NHWC")}[len(shape)]

  def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)

  def slopes(run):
    return jax.jit(jax.grad(lambda *arrays: jnp.sin(run(*arrays)).sum(), (0, 1)))(x, kernel)

  ours = lambda x, kernel: convolve(x, kernel, strides, padding)
  np.testing.assert_array_equal(ours(x, kernel), plain(x, kernel))
  for got, want in zip(slopes(ours), slopes(plain), strict=True):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
