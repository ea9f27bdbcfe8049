"""The machines that programs are planned for: TPU slices and GPU nodes that need not be there.

Both compilers run on any Linux machine and compile for devices that are described to them. What
they need is set in the environment before JAX starts, hence in a process of its own.
"""

from collections.abc import Sequence
import dataclasses
import importlib.util
import itertools
import math
import os
import re

import jax
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh

from emv3_jax.errors import InputError
from emv3_jax.plan import gpus
from emv3_jax.runtime.config import nearest
from emv3_jax.sharding import AXES, MeshConfig


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of device.

  Attributes:
    platform: `tpu` or `gpu`.
    axes: number of axes in a target's shape.
    capacity_gib: memory that a program can use, of a device.
    peak_flops: dense bfloat16 operations a second, of a device.
    near_bandwidth: bytes a second to devices that are directly linked.
    example: shape to show in messages.
    near_devices: how many are.
    far_bandwidth: bytes a second to all others.
    cores: devices of a chip; memory and operations above are of one of them.
  """

  platform: str
  axes: int
  capacity_gib: float
  peak_flops: float
  near_bandwidth: float
  example: str
  near_devices: float = math.inf
  far_bandwidth: float = math.inf
  cores: int = 1


# Capacities are what the compilers allow: of a TPU's memory the runtime keeps some for itself.
CHIPS = {
    "v5e": Chip("tpu", 2, 15.75, 197e12, 200e9, "v5e:2x4"),
    "v5p": Chip("tpu", 3, 95.74, 459e12, 600e9, "v5p:2x2x4"),
    "v6e": Chip("tpu", 2, 31.25, 918e12, 448e9, "v6e:8x8"),
    "tpu7x": Chip("tpu", 3, 94.75, 1153e12, 600e9, "tpu7x:2x2x1", cores=2),
    **{name: Chip("gpu", 3, gpu.memory_bytes / 2 ** 30, gpu.peak_flops, gpu.link_bandwidth,
                  f"{name}:1x1x8", near_devices=8, far_bandwidth=50e9)
       for name, gpu in gpus.GPUS.items()},
}

EXTRAS = {  # platform -> extra, and the modules that it brings
    "tpu": ("plan-tpu", ("libtpu",)),
    "gpu": ("plan-gpu", ("jax_plugins.xla_cuda12", "jax_cuda12_plugin", "nvidia.cudnn")),
}
_HOST = (2, 2, 1)  # chips of a TPU host; smaller slices have to name their fewer chips


@dataclasses.dataclass(frozen=True)
class Target:
  """A TPU slice, `v5e:4x4`, or GPU nodes, `h100:1x2x8`: partitions x hosts x GPUs of a host."""

  name: str
  chip: Chip
  shape: tuple[int, ...]

  @property
  def chips(self) -> int:
    return math.prod(self.shape)

  @property
  def devices(self) -> int:
    """Devices of the mesh: chips, or cores where a chip has several."""
    return self.chips * self.chip.cores

  @property
  def platform(self) -> str:
    return self.chip.platform


def parse(name: str) -> Target:
  """The target of a name like `v5e:2x4`.

  Raises:
    InputError: unknown kind of chip, or a shape that is not of that kind.
  """
  family, _, shape = name.partition(":")
  chip = CHIPS.get(family)
  if chip is None:
    examples = ", ".join(chip.example for chip in CHIPS.values())
    raise InputError(f"Unknown target {name!r} to plan for: no chip {family!r}; "
                     f"{nearest(family.lower(), list(CHIPS))} Targets look like {examples}.")
  sizes = tuple(int(size) for size in shape.split("x")) if re.fullmatch(r"\d{1,9}(x\d{1,9})*",
                                                                        shape) else ()
  if len(sizes) != chip.axes or not all(sizes):
    raise InputError(f"Target {name!r}: the shape of {family} is {chip.axes} numbers, "
                     f"e.g. {chip.example}.")
  return Target(name, chip, sizes)


def parse_list(names: str) -> list[Target]:
  """Targets of `NAME[,NAME...]`; raises as `parse`."""
  return [parse(name) for name in names.split(",")]


def larger(target: Target) -> Target:
  """The next larger target of the same kind."""
  sizes = list(target.shape)
  if target.platform == "gpu":
    sizes[2 if sizes[2] < 8 else 1] *= 2
  elif min(sizes[:2]) < 2:
    sizes[:2] = 2, 2
  else:
    sizes[-1 - sizes[::-1].index(min(sizes))] *= 2
  return parse(f"{target.name.partition(':')[0]}:{'x'.join(map(str, sizes))}")


def _smallest(target: Target) -> list[str]:
  """Names of some targets of the same kind, all of which the compiler knows."""
  one = parse(f"{target.name.partition(':')[0]}:{'x'.join('1' * len(target.shape))}")
  grown = itertools.accumulate(range(3), lambda smaller, _: larger(smaller), initial=one)
  return [target.name for target in grown]


def check_extra(target: Target) -> None:
  """Checks that the compiler for a target is installed.

  Raises:
    InputError: the compiler for the target is not installed; names the command that installs it.
  """
  extra, modules = EXTRAS[target.platform]
  for module in modules:
    if not _is_installed(module):
      raise InputError(f"Planning for {target.name} needs {module}, which is not installed; run "
                       f"pip install --editable '.[{extra}]'")


def _is_installed(module: str) -> bool:
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:  # of the package that it is in
    return False


def environment(target: Target) -> dict[str, str]:
  """Environment of a process that compiles for `target`.

  TPU programs are compiled with few optimisations: an eighth of the time, the same sharding, and a
  peak that is up to a tenth lower. JAX_OPTIMIZATION_LEVEL, where set, is left as it is.
  """
  settings = {**os.environ, "JAX_PLATFORMS": "cpu"}
  # A cache entry of a compile-only device can be written, but not read.
  settings["JAX_ENABLE_COMPILATION_CACHE"] = "false"
  if target.platform == "tpu":
    settings |= {
        "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # silences a warning; any name does
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled",
        "TPU_STDERR_LOG_LEVEL": "0", "TPU_MIN_LOG_LEVEL": "0"}  # shows the partitioner's warnings
    settings.setdefault("JAX_OPTIMIZATION_LEVEL", "O0")
  return settings


def compile_only_devices(target: Target) -> Sequence:
  """Devices of `target` to compile for; in a process with `environment(target)`.

  Raises:
    InputError: the compiler knows no such slice.
  """
  shape = "x".join(map(str, target.shape))
  try:
    if target.platform == "gpu":
      spec = gpus.target_config(target.name.partition(":")[0])
      return topologies.get_topology_desc("", "cuda", topology=shape, target_config=spec).devices
    sizes = (*target.shape, 1)[:3]
    few = any(size < host for size, host in zip(sizes, _HOST, strict=True))
    options = {"chips_per_host_bounds": tuple(map(min, sizes, _HOST))} if few else {}
    return topologies.get_topology_desc(target.name, "tpu", **options).devices
  except jax.errors.JaxRuntimeError as error:
    raise InputError(f"The compiler knows no {target.name}, but e.g. "
                     f"{', '.join(_smallest(target))}: {str(error).splitlines()[0]}") from error


def compile_only_mesh(target: Target, config: MeshConfig) -> Mesh:
  """A mesh of the devices of `target`, axes laid along its links; raises as above.

  Its sizes are not checked: their product has to be the number of devices.
  """
  devices = mesh_utils.create_device_mesh(
      config.sizes, compile_only_devices(target), allow_split_physical_axes=True)
  return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))
