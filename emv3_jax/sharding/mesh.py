"""The device mesh: four axes that all arrays of the model are split over, and what fits on it.

  data     clips, guidance branches, windows of a long clip
  fsdp     clips too; parameters are split over it and gathered layer by layer
  context  video tokens, by position: all frames of a position stay together; parameters too
  tensor   heads, and the hidden width of the feed-forward layers

The encoders' weights and the VAE's pictures (see `pictures`) are split over all axes together. On
one device every axis is 1 and the same code runs.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import math
from typing import Any, Literal, get_args

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.geometry import TOKEN
from emv3_jax.limits import check_ranges

AXES = ("data", "fsdp", "context", "tensor")
LOGICAL = {  # what the axes of arrays are called -> the mesh axes that they are split over
    "batch": ("data", "fsdp"),
    "length": ("context",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "embed": ("fsdp", "context"),
    "features": ("fsdp", "context"),  # inputs of flash's audio projection, wider than its model
    "wide": AXES,  # hidden axes of the encoders, whose batch is too small to split
    "layers": (),
}
Attention = Literal["allgather", "ulysses"]
AnyMesh = Mesh | AbstractMesh  # of devices, or of their numbers alone


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Sizes of the mesh axes and how self-attention crosses `context`.

  Attributes:
    data, fsdp, context, tensor: numbers of devices; their product is all of them.
    attention: `ulysses` exchanges tokens for heads (4 all-to-alls; context x tensor must divide the
      heads), `allgather` collects keys and values of all tokens (any degree, more memory).

  Raises:
    InputError: a size below 1 or an unknown attention.
  """

  data: int = 1
  fsdp: int = 1
  context: int = 1
  tensor: int = 1
  attention: Attention = "ulysses"

  def __post_init__(self):
    check_ranges("mesh", self, dict.fromkeys(AXES, (1, 2 ** 20)))
    if self.attention not in get_args(Attention):
      raise InputError(f"mesh.attention is {self.attention!r}; known: allgather, ulysses.")

  @property
  def sizes(self) -> tuple[int, ...]:
    return tuple(getattr(self, axis) for axis in AXES)


def make_mesh(config: MeshConfig = MeshConfig(),
              devices: Sequence[Any] | None = None) -> Mesh:
  """The mesh of `config` over `devices`; None takes all devices of all processes.

  On TPUs axes are laid along the links between chips, and an axis may take a part of a line of
  chips (context 16 x tensor 4 on 8x8 chips). Several TPU slices are one mesh whose `data` goes
  over the slower network between them.

  Raises:
    InputError: the product of the sizes is not the number of devices, or `data` does not divide
      over the slices.
  """
  devices = jax.devices() if devices is None else list(devices)
  wanted = math.prod(config.sizes)
  if wanted != len(devices):
    sizes = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, config.sizes, strict=True))
    raise InputError(f"The mesh {sizes} takes {wanted} devices, there are {len(devices)}; choose "
                     f"sizes whose product is {len(devices)}, e.g. mesh.data={len(devices)}.")
  slices = len({getattr(device, "slice_index", 0) for device in devices
                if device.platform == "tpu"}) or 1
  if config.data % slices:
    raise InputError(f"mesh.data is {config.data}, the devices are {slices} slices; data must be a "
                     f"multiple of {slices}, as only it goes over the network between slices.")
  if slices == 1:
    grid = mesh_utils.create_device_mesh(config.sizes, devices, allow_split_physical_axes=True)
  else:
    grid = mesh_utils.create_hybrid_device_mesh(
        (config.data // slices, *config.sizes[1:]), (slices, 1, 1, 1), devices,
        allow_split_physical_axes=True)
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def describe(mesh: AnyMesh, logical: str | None) -> str:
  """The mesh axes of a logical axis with their sizes: `data 2 x fsdp 4`."""
  return " x ".join(f"{axis} {mesh.shape[axis]}" for axis in _mesh_axes(logical))


def degree(mesh: AnyMesh, logical: str | None) -> int:
  """Number of parts that a logical axis is split into."""
  return math.prod(mesh.shape[axis] for axis in _mesh_axes(logical))


def spec(*logical: str | None) -> PartitionSpec:
  """Partition of an array by the names of its axes; None is not split."""
  return PartitionSpec(*(_mesh_axes(name) or None for name in logical))


def _mesh_axes(logical: str | None) -> tuple[str, ...]:
  return () if logical is None else LOGICAL[logical]


def check_batch(mesh: AnyMesh, batch: int) -> None:
  """Checks that a batch divides over the mesh.

  Raises:
    InputError: `batch` does not divide over data x fsdp.
  """
  parts = degree(mesh, "batch")
  if batch % parts:
    raise InputError(f"A batch of {batch} does not divide over {describe(mesh, 'batch')} = {parts}; "
                     f"the next batch that does is {batch + -batch % parts}.")


def check_heads(mesh: AnyMesh, heads: int, attention: Attention) -> None:
  """Checks that attention heads divide over the mesh.

  Raises:
    InputError: `heads` do not divide over tensor or, in `ulysses`, over context x tensor.
  """
  context, tensor = mesh.shape["context"], mesh.shape["tensor"]
  divisors = lambda number: ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
  if heads % tensor:
    raise InputError(f"{heads} heads do not divide over tensor {tensor}; possible: "
                     f"{divisors(heads)}.")
  if attention == "ulysses" and heads % (context * tensor):
    raise InputError(
        f"Ulysses attention gives each device whole heads: {heads} heads do not divide over "
        f"context {context} x tensor {tensor} = {context * tensor}. With tensor {tensor} context "
        f"can be {divisors(heads // tensor)}; mesh.attention=allgather takes any.")


def check_positions(mesh: AnyMesh, grid: tuple[int, int]) -> None:
  """Checks that the token positions of a frame divide over the mesh.

  Args:
    mesh: the mesh.
    grid: (h, w) rows and columns of tokens in a frame; a token is 16 pixels wide and high.

  Raises:
    InputError: h * w does not divide over context; names the nearest picture sizes that do.
  """
  (h, w), parts = grid, mesh.shape["context"]
  if h * w % parts:
    sizes = " or ".join(f"{TOKEN * y}x{TOKEN * x}" for y, x in nearest_grids(grid, parts))
    raise InputError(
        f"A picture of {TOKEN * h}x{TOKEN * w} pixels has {h} x {w} = {h * w} token positions, "
        f"which do not divide over context {parts}; the nearest sizes that do: {sizes}.")


def nearest_grids(grid: tuple[int, int], parts: int, count: int = 2) -> list[tuple[int, int]]:
  """Grids near `grid` whose number of positions `parts` divides, the nearest first."""
  around = [range(max(1, side - parts), side + parts + 1) for side in grid]
  fitting = [(h, w) for h, w in itertools.product(*around) if h * w % parts == 0]
  distance = lambda near: (np.abs(np.subtract(near, grid)).sum(), abs(near[0] - grid[0]), near)
  return sorted(fitting, key=distance)[:count]
