"""How the VAE's pictures lie on the mesh: clips, then columns and rows, over as many devices as fit.

The VAE's parameters are whole on every device, so its pictures may be split in another way than
tokens are: the devices of the mesh, whatever its axes, are taken as copies x clips x rows x columns.
"""

from collections.abc import Callable
import dataclasses
import functools
import itertools
import math

from absl import logging
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_AXES = ("copies", "batch", "height", "width")
_PIXELS8 = 8  # pixels of a latent
_STEP = 2  # latents: sides of pictures are multiples of 16 pixels


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
  around = [range(max(_STEP, side - side % _STEP - _STEP * devices),
                  side + _STEP * (devices + 1), _STEP) for side in size8]
  distance = lambda near: sum(abs(a - b) for a, b in zip(near, size8, strict=True))
  nearest = sorted(itertools.product(*around), key=lambda near: (distance(near), near))
  fitting = itertools.islice(filter(fits, nearest), count)
  return [(_PIXELS8 * height, _PIXELS8 * width) for height, width in fitting]


def check_split(devices: int, batch: int, size8: tuple[int, int]) -> str:
  """A warning where some devices repeat the work of others; empty where none does."""
  split = picture_split(devices, batch, size8)
  if split.copies == 1:
    return ""
  sizes = " or ".join(f"{h}x{w}" for h, w in nearest_sizes(devices, batch, size8))
  return (f"The VAE splits pictures of {_PIXELS8 * size8[0]}x{_PIXELS8 * size8[1]} pixels, "
          f"{size8[0]} rows and {size8[1]} columns of latents, over {split.used} of {devices} "
          f"devices ({split.height} x {split.width}); the others repeat the work. Sizes nearby "
          f"that all {devices} share: {sizes}.")


def picture_sharding(mesh: Mesh, batch: int, size8: tuple[int, int]) -> NamedSharding:
  """Sharding of clips [b, f, H, W, c] over the devices of `mesh`, in pixels or latents alike."""
  split = picture_split(mesh.size, batch, size8)
  devices = mesh.devices.reshape(dataclasses.astuple(split))
  pictures = Mesh(devices, _AXES, axis_types=(AxisType.Auto,) * len(_AXES))
  return NamedSharding(pictures, PartitionSpec("batch", None, "height", "width", None))


def constrain_pictures(mesh: Mesh, batch: int, size8: tuple[int, int]) -> Callable[..., jax.Array]:
  """The VAE's `constrain` for clips of one size, over the devices of `mesh`.

  Convolutions exchange their borders; memory for activations is a share of one device's. The
  attention of the lowest resolution, a hundredth of the work, runs whole on every device. Where the
  picture does not divide over all devices the log says so, see `check_split`.
  """
  if mesh.size == 1:
    return lambda x, *names: x
  if warning := check_split(mesh.size, batch, size8):
    logging.warning("%s", warning)
  pictures = picture_sharding(mesh, batch, size8).mesh

  def pin(x, *names):
    spec = PartitionSpec(*(name if name in _AXES else None for name in names))
    return jax.lax.with_sharding_constraint(x, NamedSharding(pictures, spec))

  return pin
