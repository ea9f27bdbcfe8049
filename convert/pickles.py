"""Reading of tensors from PyTorch's own files, which are pickles, without executing any code in them."""

from collections.abc import Iterator, Mapping
import pathlib
import pickle
import re
import warnings
import zipfile

import ml_dtypes

from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import LazyArray

MAX_DEPTH = 8  # of nested dicts
# Keys of a training run's state beside the weights, which is not part of a network.
TRAINING_STATE = re.compile(
    r"(^|_)(optim|sched|lr_|scaler|callback|loops|rng|random|hyper|args?$|config)")


def open_pickle(file: pathlib.Path) -> dict[str, LazyArray]:
  """Returns tensors by name; the names of nested dicts have the outer keys as prefixes, with dots.

  Raises:
    InputError: the file is damaged, would execute code, or holds no tensors.
  """
  try:
    import torch
  except ModuleNotFoundError as error:
    raise InputError(f"{file}: reading {file.suffix} files needs PyTorch.\n"
                     "Install it: pip install 'emv3-jax[convert]'") from error
  try:
    # Only the zip format can be memory-mapped; older files are read whole, with the same safety.
    with warnings.catch_warnings(action="ignore"):
      content = torch.load(file, map_location="cpu", weights_only=True,
                           mmap=zipfile.is_zipfile(file))
  except pickle.UnpicklingError as error:
    wanted = re.search(r"GLOBAL (\S+)|global (\S+)", str(error))
    what = f"it wants {wanted.group(1) or wanted.group(2)}" if wanted else "it is not a plain pickle"
    raise InputError(f"{file} is refused: {what}, but only tensors are read from a pickle. Nothing "
                     "in it was run.\nGet the checkpoint from its publisher, as safetensors if there "
                     "is one.") from error
  except Exception as error:  # PyTorch raises many kinds of error for damaged bytes
    reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
    if "TorchScript" in reason:
      raise InputError(f"{file} is a TorchScript program, not a state dict.\n"
                       "Give the checkpoint that it was made from.") from error
    raise InputError(f"{file} is damaged or cut short ({reason}).\nDownload it again.") from error
  if not isinstance(content, Mapping):
    raise InputError(f"{file} holds {type(content).__name__}, wanted a dict from names to tensors: "
                     "the state dict of a network.")
  tensors = dict(_tensors(content, "", {id(content)}, torch.Tensor))
  if not tensors:
    raise InputError(f"{file} holds a dict without tensors, wanted the state dict of a network.")
  return {name: _lazy(file, name, value, torch) for name, value in tensors.items()}


def _tensors(content: Mapping, before: str, seen: set[int], tensor: type) -> Iterator:
  """Yields (name, tensor) of nested dicts; `seen` holds ids of the outer ones, since a dict may contain itself."""
  for key, value in content.items():
    if not isinstance(key, str):
      continue
    if isinstance(value, tensor):
      yield f"{before}{key}", value
    elif (isinstance(value, Mapping) and id(value) not in seen and before.count(".") < MAX_DEPTH
          and not TRAINING_STATE.search(key.lower())):
      yield from _tensors(value, f"{before}{key}.", seen | {id(value)}, tensor)


def _lazy(file: pathlib.Path, name: str, value, torch) -> LazyArray:
  def read(value):
    if value.dtype == torch.bfloat16:
      return value.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.detach().numpy()

  try:
    dtype = read(value.detach().reshape(-1)[:0]).dtype
  except (RuntimeError, TypeError, NotImplementedError) as error:
    kind = "" if value.layout is torch.strided else f", {value.layout}"
    raise InputError(f"{file}: tensor {name[:80]} is {value.dtype}{kind} on {value.device}, which is "
                     "not read.\nGive the checkpoint in bfloat16, float16 or float32.") from error
  return LazyArray(tuple(value.shape), dtype, lambda: read(value))
