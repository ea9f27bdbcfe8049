"""Which meshes a plan looks at: those that are asked for, or the likeliest ones."""

from collections.abc import Iterator
import math

from emv3_jax.config import nearest
from emv3_jax.errors import InputError
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.plan.targets import Target
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
    if name != "attention" and not value.isdecimal():
      raise InputError(f"--mesh={text}: {name} is {value!r}; expected a number of devices.")
    values[name] = value if name == "attention" else int(value)
  mesh = MeshConfig(**values)
  if math.prod(mesh.sizes) != devices:
    raise InputError(f"--mesh={text} takes {math.prod(mesh.sizes)} devices, the target has "
                     f"{devices}; choose sizes whose product is {devices}.")
  return mesh


def label(mesh: MeshConfig) -> str:
  """As `parse` takes it, axes of 1 left out."""
  sizes = [f"{axis}={size}" for axis, size in zip(AXES, mesh.sizes, strict=True) if size > 1]
  if mesh.context > 1:
    sizes.append(f"attention={mesh.attention}")
  return ",".join(sizes) or "data=1"


def padded(rows: int, mesh: MeshConfig) -> int:
  """Rows of a batch as it runs: the next multiple of data x fsdp."""
  parts = mesh.data * mesh.fsdp
  return -(-rows // parts) * parts


def seconds(mesh: MeshConfig, target: Target, net: TransformerConfig, rows: int,
            positions: int, frames: int) -> float:
  """Rough time of a sampling step, to put meshes in order: 40 % of peak, then communication.

  Args:
    mesh, target, net: where, and what.
    rows: guidance branches times clips that run at once.
    positions: h * w token positions of a frame.
    frames: latent frames.
  """
  d, s, chip = net.dim, positions * frames, target.chip
  share = padded(rows, mesh) / (mesh.data * mesh.fsdp)  # rows of a device
  weights = 8 * d * d + 2 * d * net.ffn_dim  # of a layer
  work = 2 * share * s * (weights + 2 * s * d) / (mesh.context * mesh.tensor)

  tokens = share * s * d / mesh.tensor  # numbers in q, k, v or the output of a device's rows
  others = 1 - 1 / mesh.context
  attention = tokens * others * (4 / mesh.context if mesh.attention == "ulysses" else 2)
  sums = 3 * 2 * share * s * d / mesh.context * (1 - 1 / mesh.tensor)
  gathered = weights / mesh.tensor * (1 - 1 / (mesh.fsdp * mesh.context))
  moved = 2 * (attention + sums + gathered)  # bytes, in bfloat16
  near = mesh.context * mesh.tensor <= chip.near_devices
  bandwidth = chip.near_bandwidth if near else chip.far_bandwidth
  return net.num_layers * (work / (0.4 * chip.peak_flops) + moved / bandwidth)


def likely(target: Target, net: TransformerConfig, rows: int, positions: int,
           frames: int) -> list[MeshConfig]:
  """Meshes for sampling that divide everything there is to divide, the fastest by `seconds` first.

  Args: as `seconds`.
  """
  fitting = [mesh for mesh in _all(target.devices)
             if net.num_heads % mesh.tensor == 0 and net.ffn_dim % mesh.tensor == 0
             and net.dim % (mesh.fsdp * mesh.context) == 0 and positions % mesh.context == 0
             and (mesh.attention == "allgather"
                  or net.num_heads % (mesh.context * mesh.tensor) == 0)]
  return sorted(fitting, key=lambda mesh: (seconds(mesh, target, net, rows, positions, frames),
                                           mesh.fsdp, mesh.tensor))


def _all(devices: int) -> Iterator[MeshConfig]:
  divisors = [size for size in range(1, devices + 1) if devices % size == 0]
  for data in divisors:
    for fsdp in divisors:
      for context in divisors:
        rest, remainder = divmod(devices, data * fsdp * context)
        if remainder == 0:
          for attention in ("ulysses", "allgather") if context > 1 else ("ulysses",):
            yield MeshConfig(data, fsdp, context, rest, attention)
