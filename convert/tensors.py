"""Reading of tensors from checkpoint files, one at a time.

Files are memory-mapped: a tensor takes memory only while a copy of it exists. No code in a file is
executed; pickles are read by torch with `weights_only=True`, and those that need more are refused.
"""

from collections.abc import Sequence
import json
import math
import pathlib

import ml_dtypes
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import LazyArray

from .file_kinds import is_safetensors
from .pickles import open_pickle

SAFETENSORS_DTYPES = {
  "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
  "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "I64": np.int64,
  "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32,
  "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}
MAX_HEADER_BYTES = 100_000_000
MAX_SIZE = 1 << 48  # of an axis: larger than any memory, and its products do not overflow numpy's sizes
LISTED = 3  # files that a message lists


def open_tensors(files: Sequence[pathlib.Path], notes: list[str] | None = None,
                 ) -> dict[str, LazyArray]:
  """Returns the tensors of one checkpoint by name; it may be split over several files.

  Args:
    files: all its parts.
    notes: list to which lines about harmless irregularities are appended.

  Raises:
    InputError: a file is missing, truncated, of an unknown format, or would execute code, or two files
      have a tensor of the same name.
  """
  tensors = {}
  _check_present(files)
  for file in files:
    try:
      part = (_open_safetensors(file, [] if notes is None else notes) if is_safetensors(file)
              else open_pickle(file))
    except OSError as error:
      raise InputError(f"{file} cannot be read ({error.strerror or error}).") from error
    twice = tensors.keys() & part.keys()
    if twice:
      raise InputError(f"{file}: tensor {shown(min(twice))} is in another part of the checkpoint as well.\n"
                       "Download the checkpoint again into an empty folder.")
    tensors |= part
  return tensors


def _check_present(files: Sequence[pathlib.Path]) -> None:
  absent = [file for file in files if not file.is_file()]
  if not absent:
    return
  first = absent[0]
  what = (f"{first} is a link to {first.readlink()}, which is not there" if first.is_symlink()
          else f"{first} does not exist" if not first.exists() else f"{first} is not a regular file")
  if len(files) > 1:
    names = ", ".join(file.name for file in absent[:LISTED])
    more = ", ..." if len(absent) > LISTED else ""
    what += f"; {len(absent)} of {len(files)} parts are missing: {names}{more}"
  raise InputError(f"{what}.\nDownload the checkpoint again, with all its parts.")


def copy(source: np.ndarray, target: np.ndarray, block: int = 256) -> None:
  """Copies `source` to `target` with a cast, in blocks of the last two axes that fit into the CPU cache.

  Sources are transposed views; without blocks each of their elements would be a cache miss.
  """
  if source.dtype == target.dtype and source.dtype.itemsize == 2:  # numpy copies bfloat16 slowly
    source, target = source.view(np.uint16), target.view(np.uint16)
  if source.ndim < 2:
    target[...] = source
    return
  for i in range(0, target.shape[-2], block):
    for j in range(0, target.shape[-1], block):
      target[..., i:i + block, j:j + block] = source[..., i:i + block, j:j + block]


def _open_safetensors(file: pathlib.Path, notes: list[str]) -> dict[str, LazyArray]:
  size = file.stat().st_size
  damaged = lambda why: InputError(f"{file} is damaged or cut short: {why}.\nDownload it again.")
  if size < 8:
    raise damaged(f"{size} bytes")
  data = np.memmap(file, np.uint8, mode="r")
  start = 8 + int.from_bytes(data[:8].tobytes(), "little")
  if start > min(size, MAX_HEADER_BYTES):
    raise damaged(f"its header should end at byte {start}, the file has {size}")
  try:
    header = json.loads(data[8:start].tobytes())
    header.pop("__metadata__", None)
    entries = {name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
               for name, entry in header.items()}
    for name, (_, shape, begin, end) in entries.items():
      if not all(type(number) is int for number in (*shape, begin, end)):
        raise TypeError(f"sizes of {shown(name)} are not integers")
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise damaged(f"its header cannot be read ({type(error).__name__}: {str(error)[:150]})") from error
  end_of_data = start + max((end for _, _, _, end in entries.values()), default=0)
  if end_of_data > size:
    raise damaged(f"{size} bytes, its header promises {end_of_data}")

  def tensor(name):
    code, shape, begin, end = entries[name]
    if not isinstance(code, str) or code not in SAFETENSORS_DTYPES:
      raise InputError(f"{file}: tensor {shown(name)} has dtype {str(code)[:20]!r}, which is not read.\n"
                       "Give the checkpoint in bfloat16, float16 or float32.")
    dtype = np.dtype(SAFETENSORS_DTYPES[code])
    count = math.prod(shape) * dtype.itemsize
    if not 0 <= begin <= end or end - begin != count or not all(
        0 <= axis <= MAX_SIZE for axis in shape):
      raise damaged(f"{shown(name)} has {end - begin} bytes, its shape {str(shape)[:80]} needs "
                    f"{str(count)[:30]}")
    return LazyArray(shape, dtype,
                     lambda: data[start + begin:start + end].view(dtype).reshape(shape))

  tensors = {name: tensor(name) for name in entries}
  _check_layout(entries, size - start, damaged, notes, file)
  return tensors


def _check_layout(entries, size: int, damaged, notes: list[str], file: pathlib.Path) -> None:
  """Checks that tensors do not share bytes; bytes that belong to no tensor are logged."""
  taken, last = 0, ""
  for begin, end, name in sorted((begin, end, name) for name, (_, _, begin, end) in entries.items()):
    if begin < taken and begin < end:
      raise damaged(f"{shown(last)} and {shown(name)} share bytes")
    taken, last = max(taken, end), name
  extra = size - sum(end - begin for _, _, begin, end in entries.values())
  if extra:
    notes.append(f"{file.name} has {extra:,} bytes that belong to no tensor and are not read; compare "
                 "it with the published file")


def shown(name: str) -> str:
  """Makes a name of a file printable and short for messages."""
  name = name if len(name) <= 100 else f"{name[:97]}..."
  return name if name.isprintable() else ascii(name)
