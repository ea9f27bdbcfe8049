"""Convolutions whose gradients are convolutions that XLA's CPU backend has fast code for.

What `jax.grad` derives from a convolution has its channels and batch in an order for which that
backend falls back to plain loops, 50 times slower than the convolution itself. The gradients here
are written with their arrays in the order of a forward convolution. Other platforms keep their own.
"""

from collections.abc import Sequence
import functools

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Float

_NUMBERS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}  # by axes of space


def convolve(x: Float[jax.Array, "b *space i"], kernel: Float[jax.Array, "*taps i o"], strides: tuple[int, ...],
             padding: tuple[tuple[int, int], ...],
             precision: lax.Precision | None = None) -> Float[jax.Array, "b *space2 o"]:
  """Convolution along one or two axes.

  Args:
    x: of any number of channels i.
    kernel: a tap for each offset.
    strides: one for each axis of space.
    padding: zeros (before, after) each axis of space.
    precision: of the products.
  """
  return _with_gradients(x, kernel, strides, padding, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _with_gradients(x, kernel, strides, padding, precision):
  return _convolve(x, kernel, strides, padding, precision)


def _convolve(x, kernel, strides, padding, precision, dilation=None):
  return lax.conv_general_dilated(x, kernel, strides, padding, rhs_dilation=dilation,
                                  dimension_numbers=_NUMBERS[len(strides)], precision=precision)


def _forward(x, kernel, strides, padding, precision):
  return _convolve(x, kernel, strides, padding, precision), (x, kernel)


def _backward(strides, padding, precision, saved, slope):
  def derived(x, kernel, slope):
    run = lambda x, kernel: _convolve(x, kernel, strides, padding, precision)
    return jax.vjp(run, x, kernel)[1](slope)

  def written(x, kernel, slope):
    return (_slope_of_input(x.shape, kernel, slope, strides, padding, precision),
            _slope_of_kernel(x, kernel.shape, slope, strides, padding, precision))

  return lax.platform_dependent(*saved, slope, cpu=written, default=derived)


_with_gradients.defvjp(_forward, _backward)


def _slope_of_input(shape: Sequence[int], kernel, slope, strides, padding, precision):
  """The reversed kernel over the slope, which gets its strides' gaps filled with zeros."""
  axes = range(len(strides))
  turned = jnp.swapaxes(jnp.flip(kernel, tuple(axes)), -1, -2)
  spread = lax.pad(slope, jnp.zeros((), slope.dtype),
                   [(0, 0, 0), *((0, 0, stride - 1) for stride in strides), (0, 0, 0)])
  before = [kernel.shape[i] - 1 - padding[i][0] for i in axes]
  after = [shape[1 + i] + kernel.shape[i] - 1 - spread.shape[1 + i] - before[i] for i in axes]
  return _convolve(spread, turned, (1,) * len(strides),
                   tuple(zip(before, after, strict=True)), precision)


def _slope_of_kernel(x, shape: Sequence[int], slope, strides, padding, precision):
  """The slope as a kernel over the input, channels as the batch; strides dilate it."""
  space = len(strides)
  taps = _convolve(jnp.swapaxes(x, 0, -1), jnp.moveaxis(slope, 0, -2), (1,) * space, padding,
                   precision, dilation=strides)
  taps = jnp.moveaxis(taps, 0, -2)  # [*taps, i, o], and what lies beyond the last whole stride
  return taps[tuple(slice(size) for size in shape[:space])]
