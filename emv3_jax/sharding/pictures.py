"""Sharding of the VAE's pictures: clips, then columns and rows, over as many devices as fit.

The VAE's parameters are whole on every device, so its pictures may be split in another way than
tokens are: the devices of the mesh, whatever its axes, are taken as copies x clips x rows x columns.
"""

import dataclasses
import functools
import itertools
import math

from absl import logging
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from emv3_jax import geometry
from emv3_jax.geometry import CELLS, PIXELS
from emv3_jax.models.execution import Constrain, unconstrained

_AXES = ("copies", "batch", "height", "width")


@dataclasses.dataclass(frozen=True)
class PictureSplit:
  """Numbers of devices: of `copies` that do the same work, and that clips and sides are split over."""

  copies: int
  batch: int
  height: int
  width: int

  @property
  def used(self) -> int:
    return self.batch * self.height * self.width


@functools.cache
def picture_split(devices: int, batch: int, size8: tuple[int, int]) -> PictureSplit:
  """The split over the most devices; of those clips first, then columns.

  Columns go before rows because the partitioner reshuffles whole activations when rows are doubled.

  Args:
    devices: number of devices.
    batch: number of clips.
    size8: (H / 8, W / 8), the size of the latents.
  """
  divisors = lambda number: [d for d in range(1, number + 1) if number % d == 0]
  clips = math.gcd(devices, batch)
  rest = devices // clips
  fitting = [(rows * columns, columns, rows) for rows in divisors(math.gcd(rest, size8[0]))
             for columns in divisors(math.gcd(rest, size8[1])) if rest % (rows * columns) == 0]
  used, columns, rows = max(fitting)
  return PictureSplit(rest // used, clips, rows, columns)


def nearest_sizes(devices: int, batch: int, size8: tuple[int, int],
                  count: int = 2) -> list[tuple[int, int]]:
  """Sizes (H, W) in pixels near 8 x `size8` that split over all devices, the nearest first."""
  fits = lambda near: picture_split(devices, batch, near).copies == 1
  around = [range(max(CELLS, side - side % CELLS - CELLS * devices),
                  side + CELLS * (devices + 1), CELLS) for side in size8]
  distance = lambda near: sum(abs(a - b) for a, b in zip(near, size8, strict=True))
  nearest = sorted(itertools.product(*around), key=lambda near: (distance(near), near))
  fitting = itertools.islice(filter(fits, nearest), count)
  return [geometry.pixel_size(near) for near in fitting]


def check_split(devices: int, batch: int, size8: tuple[int, int]) -> str:
  """A warning where some devices repeat the work of others; empty where none does."""
  split = picture_split(devices, batch, size8)
  if split.copies == 1:
    return ""
  sizes = " or ".join(f"{h}x{w}" for h, w in nearest_sizes(devices, batch, size8))
  return (f"The VAE splits pictures of {PIXELS * size8[0]}x{PIXELS * size8[1]} pixels, "
          f"{size8[0]} rows and {size8[1]} columns of latents, over {split.used} of {devices} "
          f"devices ({split.height} x {split.width}); the others repeat the work. Sizes nearby "
          f"that all {devices} share: {sizes}.")


def picture_sharding(mesh: Mesh, batch: int, size8: tuple[int, int]) -> NamedSharding:
  """Sharding of clips [b, f, H, W, c] over the devices of `mesh`, in pixels or latents alike."""
  split = picture_split(mesh.size, batch, size8)
  devices = mesh.devices.reshape(dataclasses.astuple(split))
  pictures = Mesh(devices, _AXES, axis_types=(AxisType.Auto,) * len(_AXES))
  return NamedSharding(pictures, PartitionSpec("batch", None, "height", "width", None))


def picture_constraint(mesh: Mesh, batch: int, size8: tuple[int, int]) -> Constrain:
  """The VAE's `constrain` for clips of one size, over the devices of `mesh`.

  Convolutions exchange their borders; memory for activations is a share of one device's. The
  attention of the lowest resolution, a hundredth of the work, runs whole on every device. Where the
  picture does not divide over all devices the log says so, see `check_split`.
  """
  if mesh.size == 1:
    return unconstrained
  if warning := check_split(mesh.size, batch, size8):
    logging.warning("%s", warning)
  pictures = picture_sharding(mesh, batch, size8).mesh

  def constrain(array, *logical_axes):
    spec = PartitionSpec(*(axis if axis in _AXES else None for axis in logical_axes))
    return jax.lax.with_sharding_constraint(array, NamedSharding(pictures, spec))

  return constrain
