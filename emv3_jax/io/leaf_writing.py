"""Leaves of parameters on their way to an Orbax checkpoint, in batches of little memory."""

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
ROWS_BYTES = 1 << 20  # chunk of an embedding table, of which single rows are read


@dataclasses.dataclass(frozen=True)
class LazyArray:
  """A leaf that is made when its turn to be written comes, and freed after it."""

  shape: tuple[int, ...]
  dtype: np.dtype
  make: Callable[[], np.ndarray]


def check_space(folder: pathlib.Path, params: Params, dtype) -> None:
  """Refuses before the work what would fail in the middle of it."""
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
    # Orbax writes into it where the folder lay, which is nothing to hand on with the weights.
    marker.write_text("Checkpoint commit was successful\n", encoding="utf-8")
  if stored_leaves(path).keys() != named_leaves(params).keys():
    raise OSError("what was written does not have the names of what was given")
  return dtypes


def _storage(key, value) -> ocp.options.ArrayOptions.Saving.StorageOptions:
  """Chunks: a layer of stacked leaves, some rows of embedding tables, else blocks."""
  name = param_name(key)
  stacked = is_stacked(name) and len(value.shape) > 1
  table = name.endswith(".embedding") and not stacked
  return ocp.options.ArrayOptions.Saving.StorageOptions(
      chunk_byte_size=ROWS_BYTES if table else CHUNK_BYTES, shard_axes=(0,) if stacked else None)


def in_batches(tree: Params) -> Iterator[dict]:
  """Leaves by name up to `BATCH_BYTES` at a time; a larger leaf comes alone."""
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
  """tensorstore reports a full or unwritable disk as ValueError; here it is an OSError."""
  try:
    yield
  except ValueError as error:
    reason = str(error).splitlines()[0].split('": ')[-1]
    raise OSError(reason.partition(" [")[0][:200]) from error


def return_memory() -> None:
  """Gives freed memory back to the system; glibc keeps the many small pieces of what passed."""
  trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
  if trim is not None:
    trim(0)
