"""Export of a model folder to a safetensors file with the official names, bit for bit."""

import json
import math
import pathlib

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io.atomic import atomic_file
from emv3_jax.io.checkpoints import read_model_card
from emv3_jax.io.paths import check_folder, check_output
from emv3_jax.io.stored_leaves import StoredLeaf, stored_leaves

from .plan import COMPONENTS
from .table import Leaf
from .tensors import SAFETENSORS_DTYPES, copy

SUFFIX = ".safetensors"
CODES = {np.dtype(dtype): code for code, dtype in SAFETENSORS_DTYPES.items()}


def export(folder: pathlib.Path, file: pathlib.Path, component: str = "transformer",
           replace: bool = False) -> str:
  """Writes one component as safetensors, one tensor in memory at a time.

  Tensors that the conversion left out because the network does not use them are not in the file.

  Args:
    folder: a model folder.
    file: path that ends in .safetensors, in an existing folder.
    component: name of the component.
    replace: whether to replace an existing file.

  Returns:
    One line about the file, for the user.

  Raises:
    InputError: the file has another suffix, exists already or cannot be written, or the folder has no
      complete component of that name.
  """
  _check_file(file, replace)
  card = read_model_card(folder)
  card.require(component)
  path = card.folder / component
  layout = next((layout for layout in COMPONENTS[component].layouts
                 if layout.name == "official" and layout.variant in (None, card.variant)), None)
  if layout is None:
    raise InputError(f"{folder} holds the variant {card.variant!r}, whose official names are not known.")
  stored = stored_leaves(path)
  rows = {leaf.ours: leaf for leaf in layout.leaves if leaf.ours in stored}
  if rows.keys() != stored.keys():
    raise InputError(f"{path} has parameters without an official name: "
                     f"{', '.join(sorted(stored.keys() - rows.keys())[:3])}, ...")
  parts = {}  # {official name: [(row, layer)]}, three of them if the file fuses q, k, v
  for name, leaf in rows.items():
    for layer, theirs in enumerate(leaf.names(stored[name].shape[0])):
      parts.setdefault(theirs, []).append((leaf, layer if leaf.stacked else ...))
  header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
  end = 0
  for theirs, ((leaf, _), *_) in parts.items():
    ours = stored[leaf.ours]
    shape = leaf.their_shape(ours.shape[1:] if leaf.stacked else ours.shape)
    if np.dtype(ours.dtype) not in CODES:
      raise InputError(f"{path}: {leaf.ours} is {ours.dtype}, which safetensors has no name for.")
    begin, end = end, end + math.prod(shape) * np.dtype(ours.dtype).itemsize
    header[theirs] = {"dtype": CODES[np.dtype(ours.dtype)], "shape": list(shape),
                      "data_offsets": [begin, end]}
  with atomic_file(file) as temporary, temporary.open("wb") as out:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for pieces in parts.values():
      out.write(_official(path, pieces).reshape(-1).view(np.uint8).data)
  return f"{file}: {len(parts)} tensors, {end:,} bytes of {component}"


def _check_file(file: pathlib.Path, replace: bool) -> None:
  if file.suffix != SUFFIX:
    raise InputError(f"{file} would be a safetensors file under another name.\n"
                     f"Give it that ending: {file.with_suffix(SUFFIX) if file.name else file}")
  if not file.parent.is_dir():
    raise InputError(f"Cannot write {file}: folder {file.parent} does not exist; make it first.")
  check_output(file)
  check_folder(file.parent)
  if file.exists() and not replace:
    raise InputError(f"{file} is there already; pass --replace to write over it, or choose another name.")


def _official(component: pathlib.Path, pieces: list[tuple[Leaf, object]]) -> np.ndarray:
  """Builds one tensor of the official file from our leaf, or from the three leaves that it fuses."""
  arrays = []
  for leaf, layer in sorted(pieces, key=lambda piece: piece[0].third or 0):
    view = leaf.transform.backward(StoredLeaf(component, leaf.ours)[layer])
    arrays.append(np.empty(view.shape, view.dtype))
    copy(view, arrays[-1])
  return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
