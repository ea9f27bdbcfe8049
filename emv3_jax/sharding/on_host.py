"""Sharded arrays that wait on the host while the devices work on others."""

import dataclasses
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class HostArray:
  """This process's shards of an array, on the host.

  Attributes:
    shape, sharding: of the array.
    shards: by device; devices that hold the same part share one copy.
  """

  shape: tuple[int, ...]
  sharding: jax.sharding.Sharding
  shards: dict[Any, np.ndarray]

  def on_devices(self) -> jax.Array:
    """Returns the array as it was placed."""
    return jax.make_array_from_single_device_arrays(
        self.shape, self.sharding, [jax.device_put(part, device) for device, part in self.shards.items()])


def to_host(array: jax.Array) -> HostArray:
  """Copies an array to the host."""
  parts: dict[str, np.ndarray] = {}
  for shard in array.addressable_shards:
    if str(shard.index) not in parts:
      parts[str(shard.index)] = np.asarray(shard.data)
  return HostArray(array.shape, array.sharding,
                   {shard.device: parts[str(shard.index)] for shard in array.addressable_shards})
