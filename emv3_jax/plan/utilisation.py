"""FLOPs utilisation: the share of the devices' peak operations that a training run reaches.

Model FLOPs utilisation (`mfu`) counts what the step needs, hardware FLOPs utilisation (`hfu`) also
what the backward pass recomputes to save memory.
"""

import functools

from emv3_jax import geometry
from emv3_jax.plan.programs import Window
from emv3_jax.plan.targets import CHIPS, Chip
from emv3_jax.plan.training_programs import forward_flops, recomputed_flops
from emv3_jax.training import curriculum
from emv3_jax.training.monitor.throughput import Throughput
from emv3_jax.training.settings import Config

KINDS = {  # device kind in JAX -> chip; a chip may have several kinds
    "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p",
    "TPU v6 lite": "v6e", "TPU v6e": "v6e", "TPU7x": "tpu7x",
    "NVIDIA A100-SXM4-80GB": "a100", "NVIDIA H100 80GB HBM3": "h100", "NVIDIA H200": "h200",
}
# Dense bfloat16 operations per second, with float32 sums, of kinds that are not planned for.
OTHERS = {
    "NVIDIA A100-SXM4-40GB": 312e12, "NVIDIA A100-PCIE-40GB": 312e12, "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 PCIe": 756e12, "NVIDIA H100 NVL": 835e12, "NVIDIA GH200 480GB": 989e12,
    "NVIDIA B200": 2250e12, "NVIDIA L40S": 362e12, "NVIDIA L4": 121e12, "NVIDIA A10": 125e12,
    "NVIDIA RTX A6000": 155e12, "NVIDIA RTX 6000 Ada Generation": 364e12, "NVIDIA GeForce RTX 4090": 165e12,
}


def chip_of(device_kind: str) -> Chip | None:
  """Returns the chip of a device kind of JAX; None if its peak is unknown."""
  name = KINDS.get(device_kind)
  return None if name is None else CHIPS[name]


def peak_flops(device_kind: str) -> float | None:
  """Returns the dense bfloat16 operations per second of a device kind of JAX; None if they are unknown."""
  chip = chip_of(device_kind)
  return OTHERS.get(device_kind) if chip is None else chip.peak_flops


def throughput_of(config: Config, device_kind: str, devices: int) -> Throughput:
  """Returns a run's `Throughput`, with utilisation of the bfloat16 peak if the device kind is known."""
  peak = peak_flops(device_kind)
  if peak is None:
    return Throughput()
  work = functools.cache(lambda step_kind, shape: (
      step_flops(config, step_kind, shape), executed_flops(config, step_kind, shape)))
  stages = config.all_stages()
  return Throughput(lambda step, shape: work(curriculum.kind_at(stages, step), shape),
               peak * devices)


def step_flops(config: Config, kind: curriculum.Kind, shape: tuple[int, ...]) -> int:
  """Counts the operations of a step on latents [b, f, H8, W8, 16], of all devices together.

  The gradient of a product takes two products; a frozen reference is run forward only.
  """
  learnt, frozen = _passes(config, kind)
  return (3 * learnt + frozen) * _forward(config, _window(shape))


def executed_flops(config: Config, kind: curriculum.Kind, shape: tuple[int, ...]) -> int | None:
  """Counts the operations of a step with those that the backward pass recomputes (`train.remat`).

  Returns:
    None where it is not known what is recomputed.
  """
  window = _window(shape)
  recomputed = recomputed_flops(config, window, _forward(config, window))
  if recomputed is None:
    return None
  return step_flops(config, kind, shape) + _passes(config, kind)[0] * recomputed


def _passes(config: Config, kind: curriculum.Kind) -> tuple[int, int]:
  """Returns the forward passes of a step with a gradient, and those without one."""
  learnt = {"sft": 1, "ndpo": 1 + (config.ndpo.sft_weight > 0), "dpo": 2}[kind]
  return learnt, {"sft": 0, "ndpo": int(config.ndpo.reading == "reference"), "dpo": 2}[kind]


def _window(shape: tuple[int, ...]) -> Window:
  _, f, height8, width8, _ = shape
  return Window(geometry.frames_of(f), *geometry.pixel_size((height8, width8)))


def _forward(config: Config, window: Window) -> int:
  return forward_flops(config.model.transformer, config.train.batch, window)
