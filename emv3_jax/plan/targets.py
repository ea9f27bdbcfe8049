"""Machines that programs are planned for: TPU slices and GPU nodes, which need not be available.

Both compilers run on any Linux machine and compile for a description of the devices. Their environment
variables must be set before JAX starts, hence they run in a process of their own.
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

from emv3_jax.errors import InputError, nearest
from emv3_jax.plan import gpus
from emv3_jax.sharding import AXES, MeshConfig


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of device.

  Attributes:
    platform: `tpu` or `gpu`.
    axes: number of axes in a target's shape.
    capacity_gib: memory per device that a program can use, in GiB.
    peak_flops: dense bfloat16 operations per second and device.
    near_bandwidth: bytes per second to directly linked devices.
    example: target name for messages.
    near_devices: number of directly linked devices.
    far_bandwidth: bytes per second to all other devices.
    cores: devices per chip.
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


# Capacities that the compilers allow; the runtime reserves a part of a TPU's memory.
CHIPS = {
    "v5e": Chip("tpu", 2, 15.75, 197e12, 200e9, "v5e:2x4"),
    "v5p": Chip("tpu", 3, 95.74, 459e12, 600e9, "v5p:2x2x4"),
    "v6e": Chip("tpu", 2, 31.25, 918e12, 448e9, "v6e:8x8"),
    "tpu7x": Chip("tpu", 3, 94.75, 1153e12, 600e9, "tpu7x:2x2x1", cores=2),
    **{name: Chip("gpu", 3, gpu.memory_bytes / 2 ** 30, gpu.peak_flops, gpu.link_bandwidth,
                  f"{name}:1x1x8", near_devices=8, far_bandwidth=50e9)
       for name, gpu in gpus.GPUS.items()},
}

EXTRAS = {  # platform -> extra of the package, and the modules that it installs
    "tpu": ("plan-tpu", ("libtpu",)),
    "gpu": ("plan-gpu", ("jax_plugins.xla_cuda12", "jax_cuda12_plugin", "nvidia.cudnn")),
}
_HOST = (2, 2, 1)  # chips of a TPU host; a smaller slice has to specify its number


@dataclasses.dataclass(frozen=True)
class Target:
  """A TPU slice, `v5e:4x4`, or GPU nodes, `h100:1x2x8`: partitions x hosts x GPUs per host."""

  name: str
  chip: Chip
  shape: tuple[int, ...]

  @property
  def chips(self) -> int:
    return math.prod(self.shape)

  @property
  def devices(self) -> int:
    """Number of devices of the mesh: chips, or cores if a chip has several."""
    return self.chips * self.chip.cores

  @property
  def platform(self) -> str:
    return self.chip.platform


def parse(name: str) -> Target:
  """Parses the name of a target, e.g. `v5e:2x4`.

  Raises:
    InputError: the kind of chip is unknown, or the shape is not one of that kind.
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
  """Parses the targets of `NAME[,NAME...]`; raises as `parse`."""
  return [parse(name) for name in names.split(",")]


def larger(target: Target) -> Target:
  """Returns the next larger target of the same kind."""
  sizes = list(target.shape)
  if target.platform == "gpu":
    sizes[2 if sizes[2] < 8 else 1] *= 2
  elif min(sizes[:2]) < 2:
    sizes[:2] = 2, 2
  else:
    sizes[-1 - sizes[::-1].index(min(sizes))] *= 2
  return parse(f"{target.name.partition(':')[0]}:{'x'.join(map(str, sizes))}")


def _smallest(target: Target) -> list[str]:
  """Returns the names of the smallest targets of the same kind, all of which the compiler supports."""
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
  except ModuleNotFoundError:  # of its parent package
    return False


def environment(target: Target) -> dict[str, str]:
  """Returns the environment of a process that compiles for `target`.

  TPU programs are compiled with few optimisations: this takes an eighth of the time and gives the same
  sharding and a peak that is up to a tenth lower. A JAX_OPTIMIZATION_LEVEL that is set is kept.
  """
  settings = {**os.environ, "JAX_PLATFORMS": "cpu"}
  # Cache entries of compile-only devices can be written, but not read.
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
  """Returns the devices of `target` to compile for; needs a process with `environment(target)`.

  Raises:
    InputError: the compiler does not support such a slice.
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
  """Returns a mesh of the devices of `target`, with axes along its links.

  The product of the mesh's sizes must be the number of devices, which is not checked.

  Raises:
    InputError: as `compile_only_devices`.
  """
  devices = mesh_utils.create_device_mesh(
      config.sizes, compile_only_devices(target), allow_split_physical_axes=True)
  return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))
