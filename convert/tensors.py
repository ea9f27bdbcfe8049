"""Tensors of checkpoint files, read one at a time.

Files are memory-mapped: a tensor costs memory only while somebody holds a copy of it. Nothing in a
file is ever executed; pickles are read by torch with `weights_only=True`, and one that wants more
is refused.
"""

from collections.abc import Iterable
import json
import pathlib
import pickle
import re
import zipfile

import ml_dtypes
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import LazyArray

SAFETENSORS_DTYPES = {
  "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
  "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "I64": np.int64,
  "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32,
  "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}
PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
MAX_HEADER_BYTES = 100_000_000


def open_tensors(files: Iterable[pathlib.Path]) -> dict[str, LazyArray]:
  """Tensors by name of one checkpoint, which may be split over several files.

  Raises:
    InputError: a file is missing, truncated, of an unknown format, or would execute code; or two
      files have a tensor of the same name.
  """
  tensors = {}
  for file in files:
    if not file.is_file():
      raise InputError(f"{file} does not exist.\nDownload the checkpoint again, with all its parts.")
    if file.suffix == ".safetensors":
      part = _open_safetensors(file)
    elif file.suffix in PICKLE_SUFFIXES:
      part = _open_pickle(file)
    else:
      raise InputError(f"{file}: unknown kind of file {file.suffix!r}; wanted .safetensors, "
                       f"{', '.join(PICKLE_SUFFIXES)}.")
    twice = tensors.keys() & part.keys()
    if twice:
      raise InputError(f"{file}: tensor {min(twice)} is in another part of the checkpoint as well.\n"
                       "Download the checkpoint again into an empty folder.")
    tensors |= part
  return tensors


def copy(source: np.ndarray, target: np.ndarray, block: int = 256) -> None:
  """`target[...] = source` with a cast, in blocks of the last two axes that fit the cache.

  Sources are transposed views; copied whole, each of their elements would be a cache miss.
  """
  if source.dtype == target.dtype and source.dtype.itemsize == 2:  # numpy is slow in bfloat16
    source, target = source.view(np.uint16), target.view(np.uint16)
  if source.ndim < 2:
    target[...] = source
    return
  for i in range(0, target.shape[-2], block):
    for j in range(0, target.shape[-1], block):
      target[..., i:i + block, j:j + block] = source[..., i:i + block, j:j + block]


def _open_safetensors(file: pathlib.Path) -> dict[str, LazyArray]:
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
    entries = {name: (SAFETENSORS_DTYPES[entry["dtype"]], tuple(map(int, entry["shape"])),
                      *map(int, entry["data_offsets"])) for name, entry in header.items()}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise damaged(f"its header cannot be read ({type(error).__name__}: {error})") from error
  end_of_data = start + max((end for _, _, _, end in entries.values()), default=0)
  if end_of_data > size:
    raise damaged(f"{size} bytes, its header promises {end_of_data}")

  def tensor(name):
    dtype, shape, begin, end = entries[name]
    count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if not 0 <= begin <= end or end - begin != count or min(shape, default=0) < 0:
      raise damaged(f"{name} has {end - begin} bytes, its shape {shape} needs {count}")
    return LazyArray(shape, np.dtype(dtype),
                     lambda: data[start + begin:start + end].view(dtype).reshape(shape))

  return {name: tensor(name) for name in entries}


def _open_pickle(file: pathlib.Path) -> dict[str, LazyArray]:
  try:
    import torch
  except ModuleNotFoundError as error:
    raise InputError(f"{file}: reading {file.suffix} files needs PyTorch.\n"
                     "Install it: pip install 'emv3-jax[convert]'") from error
  try:
    # Only the zip format can be mapped; older files are read as a whole, as safely.
    content = torch.load(file, map_location="cpu", weights_only=True,
                         mmap=zipfile.is_zipfile(file))
  except pickle.UnpicklingError as error:
    wanted = re.search(r"GLOBAL (\S+)|global (\S+)", str(error))
    what = f"it wants {wanted.group(1) or wanted.group(2)}" if wanted else "it is not a plain pickle"
    raise InputError(f"{file} is refused: {what}, but only tensors are read from a pickle. Nothing "
                     "in it was run.\nGet the checkpoint from its publisher, as safetensors if there "
                     "is one.") from error
  except (RuntimeError, OSError, EOFError, ValueError) as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
    raise InputError(f"{file} is damaged or cut short ({reason}).\nDownload it again.") from error
  if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor)
                                              for value in content.values()):
    raise InputError(f"{file} holds {type(content).__name__}, wanted a dict from names to tensors: "
                     "the state dict of a network.")

  def read(value):
    if value.dtype == torch.bfloat16:
      return value.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.detach().numpy()

  def dtype(value):
    return read(value.detach().reshape(-1)[:0]).dtype

  return {name: LazyArray(tuple(value.shape), dtype(value), lambda value=value: read(value))
          for name, value in content.items()}
