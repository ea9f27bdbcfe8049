"""Meshes that a plan compiles for: those of the command line, or those estimated to be fastest."""

from collections.abc import Iterable, Iterator
import dataclasses
import math
import re

from emv3_jax.errors import InputError, nearest
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.plan.targets import Target
from emv3_jax.sharding import AXES, MeshConfig


def parse(text: str, devices: int) -> MeshConfig:
  """Parses a mesh from text like `data=2,context=4` or `context=8,attention=allgather`.

  Axes that are not named have size 1; `attention` is ulysses by default.

  Raises:
    InputError: an axis is unknown, a size is not a number, or the product of the sizes is not `devices`.
  """
  values = {}
  for part in text.split(","):
    name, _, value = part.partition("=")
    if name not in (*AXES, "attention"):
      raise InputError(f"--mesh={text}: unknown axis {name!r}; "
                       f"{nearest(name, [*AXES, 'attention'])}")
    if name != "attention" and not re.fullmatch(r"\d{1,9}", value):
      raise InputError(f"--mesh={text}: {name} is {value!r}; expected a number of devices.")
    values[name] = value if name == "attention" else int(value)
  mesh = MeshConfig(**values)
  if math.prod(mesh.sizes) != devices:
    raise InputError(f"--mesh={text} takes {math.prod(mesh.sizes)} devices, the target has "
                     f"{devices}; choose sizes whose product is {devices}.")
  return mesh


def label(mesh: MeshConfig) -> str:
  """Formats a mesh for `parse`, without axes of size 1."""
  sizes = [f"{axis}={size}" for axis, size in zip(AXES, mesh.sizes, strict=True) if size > 1]
  if mesh.context > 1:
    sizes.append(f"attention={mesh.attention}")
  return ",".join(sizes) or "data=1"


def padded(rows: int, mesh: MeshConfig) -> int:
  """Returns the rows of a padded batch: the next multiple of data x fsdp."""
  parts = mesh.data * mesh.fsdp
  return -(-rows // parts) * parts


@dataclasses.dataclass(frozen=True)
class Step:
  """Sizes of a step of sampling or training.

  Attributes:
    net: config of the transformer.
    rows: rows of the batch that run at once: guidance branches times clips, or a microbatch of training.
    positions: h * w token positions of a frame.
    frames: latent frames.
    trains: whether gradients are computed, with full rematerialisation of each layer.
  """

  net: TransformerConfig
  rows: int
  positions: int
  frames: int
  trains: bool = False


def seconds(mesh: MeshConfig, target: Target, step: Step) -> float:
  """Estimates the seconds of a step, to rank meshes: compute at 40 % of peak, plus communication."""
  net, chip = step.net, target.chip
  d, s = net.dim, step.positions * step.frames
  share = padded(step.rows, mesh) / (mesh.data * mesh.fsdp)  # rows per device
  weights = 8 * d * d + 2 * d * net.ffn_dim  # parameters of a layer
  work = 2 * share * s * (weights + 2 * s * d) / (mesh.context * mesh.tensor)

  tokens = share * s * d / mesh.tensor  # elements of q, k, v or the output for a device's rows
  others = 1 - 1 / mesh.context
  attention = tokens * others * (4 / mesh.context if mesh.attention == "ulysses" else 2)
  sums = 3 * 2 * share * s * d / mesh.context * (1 - 1 / mesh.tensor)
  split = mesh.fsdp * mesh.context
  gathered = weights / mesh.tensor * (1 - 1 / split)
  if step.trains:  # two forward passes with remat, a backward pass of two; reduce-scatter of gradients
    work, attention, sums, gathered = 4 * work, 3 * attention, 3 * sums, 3 * gathered
    gathered += 2 * weights / mesh.tensor / split * (1 - 1 / mesh.data)
  moved = 2 * (attention + sums + gathered)  # bytes, in bfloat16
  near = mesh.context * mesh.tensor <= chip.near_devices
  bandwidth = chip.near_bandwidth if near else chip.far_bandwidth
  return net.num_layers * (work / (0.4 * chip.peak_flops) + moved / bandwidth)


def likely(target: Target, step: Step) -> list[MeshConfig]:
  """Returns the meshes whose axes divide all sharded sizes, the fastest by `seconds` first.

  In sampling rows may be padded; in training data x fsdp must divide them.
  """
  net = step.net
  fitting = [mesh for mesh in _all(target.devices)
             if net.num_heads % mesh.tensor == 0 and net.ffn_dim % mesh.tensor == 0
             and net.dim % (mesh.fsdp * mesh.context) == 0 and step.positions % mesh.context == 0
             and (mesh.attention == "allgather"
                  or net.num_heads % (mesh.context * mesh.tensor) == 0)
             and not (step.trains and step.rows % (mesh.data * mesh.fsdp))]
  times = {mesh: seconds(mesh, target, step) for mesh in fitting}
  if step.trains:
    # Optimizer state and moving average are not sharded over data: of equally fast meshes the one with the
    # smallest data axis needs the least memory.
    return sorted(fitting, key=lambda mesh: (
        pace(times[mesh], times.values()), mesh.data, mesh.attention == "allgather", times[mesh]))
  return sorted(fitting, key=lambda mesh: (times[mesh], mesh.fsdp, mesh.tensor))


def pace(time: float, times: Iterable[float]) -> int:
  """Returns `time` in whole percents of the shortest one, the precision of the estimate."""
  return int(100 * time / min(times))


def _all(devices: int) -> Iterator[MeshConfig]:
  divisors = [size for size in range(1, devices + 1) if devices % size == 0]
  for data in divisors:
    for fsdp in divisors:
      for context in divisors:
        rest, remainder = divmod(devices, data * fsdp * context)
        if remainder == 0:
          for attention in ("ulysses", "allgather") if context > 1 else ("ulysses",):
            yield MeshConfig(data, fsdp, context, rest, attention)
