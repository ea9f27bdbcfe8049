"""Writing of parameters to an Orbax checkpoint, in batches that take little memory."""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import dataclasses
import math
import os
import pathlib
import shutil

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from emv3_jax.io.stored_leaves import is_stacked, stored_leaves
from emv3_jax.models.network import Params, named_leaves, nested, param_name

BATCH_BYTES = 256 << 20  # leaves are written and read together up to this size
CHUNK_BYTES = 64 << 20  # one read of a sharded restore
ROWS_BYTES = 1 << 20  # chunk size of an embedding table, from which single rows are read


@dataclasses.dataclass(frozen=True)
class LazyArray:
  """A leaf that is computed only when it is written, and freed afterwards."""

  shape: tuple[int, ...]
  dtype: np.dtype
  make: Callable[[], np.ndarray]


def check_space(folder: pathlib.Path, params: Params, dtype) -> None:
  """Raises OSError if the disk of `folder` has too little space for the leaves of `params`."""
  needed = sum(num_bytes(leaf, dtype) for leaf in named_leaves(params).values())
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise OSError(f"it needs {needed:,} bytes, the disk has {free:,} free")


def write_leaves(path: pathlib.Path, params: Params, dtype) -> set[str]:
  """Writes an Orbax checkpoint batch by batch and returns the dtypes of its leaves."""
  context = ocp.Context()
  context.array.saving.use_compression = False
  context.array.saving.enable_write_sharding_file = False
  context.array.saving.scoped_storage_options_creator = _storage
  context.memory.deepcopy_host_arrays = False
  context.memory.write_concurrent_bytes = BATCH_BYTES
  dtypes = set()
  for batch in in_batches(params):
    arrays = {name: _materialise(leaf, dtype) for name, leaf in batch.items()}
    dtypes |= {str(array.dtype) for array in arrays.values()}
    with context, disk_errors():
      ocp.partial.save(os.fspath(path), nested(arrays))
    del arrays
    return_memory()
  with context, disk_errors():
    ocp.partial.finalize(os.fspath(path))
  marker = path / "commit_success.txt"
  if jax.process_index() == 0 and marker.exists():
    # Orbax writes the folder's path into it, which should not be published with the weights.
    marker.write_text("Checkpoint commit was successful\n", encoding="utf-8")
  if stored_leaves(path).keys() != named_leaves(params).keys():
    raise OSError("the leaves that were written do not have the names of those given")
  return dtypes


def _storage(key, value) -> ocp.options.ArrayOptions.Saving.StorageOptions:
  """Returns the chunk options of a leaf: one layer of stacked leaves, some rows of tables, else blocks."""
  name = param_name(key)
  stacked = is_stacked(name) and len(value.shape) > 1
  table = name.endswith(".embedding") and not stacked
  return ocp.options.ArrayOptions.Saving.StorageOptions(
      chunk_byte_size=ROWS_BYTES if table else CHUNK_BYTES, shard_axes=(0,) if stacked else None)


def in_batches(tree: Params) -> Iterator[dict]:
  """Yields leaves by name in batches of up to `BATCH_BYTES`; a larger leaf is a batch of its own."""
  batch, size = {}, 0
  for name, leaf in named_leaves(tree).items():
    if batch and size + num_bytes(leaf) > BATCH_BYTES:
      yield batch
      batch, size = {}, 0
    batch[name] = leaf
    size += num_bytes(leaf)
  if batch:
    yield batch


def num_bytes(leaf, dtype=None) -> int:
  return math.prod(leaf.shape) * np.dtype(dtype or leaf.dtype).itemsize


def _materialise(leaf, dtype):
  array = leaf.make() if isinstance(leaf, LazyArray) else leaf
  return array if dtype is None or array.dtype == dtype else array.astype(dtype)


@contextlib.contextmanager
def disk_errors():
  """Converts the ValueError that tensorstore raises for a full or unwritable disk to an OSError."""
  try:
    yield
  except ValueError as error:
    reason = str(error).splitlines()[0].split('": ')[-1]
    raise OSError(reason.partition(" [")[0][:200]) from error


def return_memory() -> None:
  """Returns freed memory to the system; otherwise glibc keeps many small pieces of it."""
  trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
  if trim is not None:
    trim(0)
