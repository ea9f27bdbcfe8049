"""Meshes that a plan compiles for: those of the command line, or the likeliest ones."""

from collections.abc import Iterable, Iterator
import dataclasses
import math
import re

from emv3_jax.errors import InputError
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.plan.targets import Target
from emv3_jax.runtime.config import nearest
from emv3_jax.sharding import AXES, MeshConfig


def parse(text: str, devices: int) -> MeshConfig:
  """A mesh from text like `data=2,context=4` or `context=8,attention=allgather`.

  Axes that are not named are 1; without `attention` it is ulysses.

  Raises:
    InputError: unknown axis, a size that is no number, or a product that is not `devices`.
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
  """Text of a mesh for `parse`, axes of 1 left out."""
  sizes = [f"{axis}={size}" for axis, size in zip(AXES, mesh.sizes, strict=True) if size > 1]
  if mesh.context > 1:
    sizes.append(f"attention={mesh.attention}")
  return ",".join(sizes) or "data=1"


def padded(rows: int, mesh: MeshConfig) -> int:
  """Rows of a batch as it runs: the next multiple of data x fsdp."""
  parts = mesh.data * mesh.fsdp
  return -(-rows // parts) * parts


@dataclasses.dataclass(frozen=True)
class Step:
  """Sizes of a step.

  Attributes:
    net: the network.
    rows: of the batch that run at once: guidance branches times clips, or a part of a training
      batch.
    positions: h * w token positions of a frame.
    frames: latent frames.
    trains: whether gradients are taken, with all but a layer's input recomputed.
  """

  net: TransformerConfig
  rows: int
  positions: int
  frames: int
  trains: bool = False


def seconds(mesh: MeshConfig, target: Target, step: Step) -> float:
  """Rough time of a step, to put meshes in order: 40 % of peak, then communication."""
  net, chip = step.net, target.chip
  d, s = net.dim, step.positions * step.frames
  share = padded(step.rows, mesh) / (mesh.data * mesh.fsdp)  # rows of a device
  weights = 8 * d * d + 2 * d * net.ffn_dim  # of a layer
  work = 2 * share * s * (weights + 2 * s * d) / (mesh.context * mesh.tensor)

  tokens = share * s * d / mesh.tensor  # numbers in q, k, v or the output of a device's rows
  others = 1 - 1 / mesh.context
  attention = tokens * others * (4 / mesh.context if mesh.attention == "ulysses" else 2)
  sums = 3 * 2 * share * s * d / mesh.context * (1 - 1 / mesh.tensor)
  split = mesh.fsdp * mesh.context
  gathered = weights / mesh.tensor * (1 - 1 / split)
  if step.trains:  # forward twice with remat, backward twice as much; gradients go to the shards
    work, attention, sums, gathered = 4 * work, 3 * attention, 3 * sums, 3 * gathered
    gathered += 2 * weights / mesh.tensor / split * (1 - 1 / mesh.data)
  moved = 2 * (attention + sums + gathered)  # bytes, in bfloat16
  near = mesh.context * mesh.tensor <= chip.near_devices
  bandwidth = chip.near_bandwidth if near else chip.far_bandwidth
  return net.num_layers * (work / (0.4 * chip.peak_flops) + moved / bandwidth)


def likely(target: Target, step: Step) -> list[MeshConfig]:
  """Meshes that divide everything there is to divide, the fastest by `seconds` first.

  In sampling rows may be padded. In training they have to divide.
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
    # Optimiser and average of all parameters are not split over data: of equally fast meshes the
    # one with little of it has the most memory.
    return sorted(fitting, key=lambda mesh: (
        pace(times[mesh], times.values()), mesh.data, mesh.attention == "allgather", times[mesh]))
  return sorted(fitting, key=lambda mesh: (times[mesh], mesh.fsdp, mesh.tensor))


def pace(time: float, times: Iterable[float]) -> int:
  """`time` in percent of the shortest one: the model knows no difference below that."""
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
