"""Helpers of both PyTorch sides."""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import cases


def without_gradients(run: Callable[[], object]) -> Callable[[], None]:
  def once():
    with torch.inference_mode():
      run()

  return once


def count(run: Callable, inputs: tuple) -> float:
  """GFLOP of matrix products and convolutions; modules and inputs on the device `meta` cost nothing."""
  # The counter knows attention only as the two matrix products that it is.
  with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as mode:
    run(*inputs)
  return mode.get_total_flops() / 1e9


def vae_input(case: cases.VAE) -> torch.Tensor:
  """[1, z_dim, f, h, w] latents or [1, 3, F, H, W] video."""
  if case.direction == "decode":
    side = case.side // case.config.pixels_per_latent
    return torch.randn(1, case.config.z_dim, case.latents, side, side)
  return torch.rand(1, 3, case.frames, case.side, case.side) * 2 - 1
