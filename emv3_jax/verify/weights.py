"""Loading of the released files into a PyTorch module, by the converter's name tables."""

from collections.abc import Callable

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from emv3_jax.convert.component import Layout
from emv3_jax.convert.plan import COMPONENTS
from emv3_jax.errors import InputError
from emv3_jax.verify.originals import Original

_DRAWS = {"normal_", "uniform_", "trunc_normal_"}


class Unfilled(TorchFunctionMode):
  """Mode in which modules are built without random initial values, which `fill` would replace."""

  def __torch_function__(self, function, types, args=(), kwargs=None):
    kwargs = kwargs or {}
    if getattr(function, "__name__", "") in _DRAWS or (
        getattr(function, "__module__", "") == "torch.nn.init"):
      return args[0] if args else kwargs["tensor"]
    return function(*args, **kwargs)


def layout_of(component: str, name: str, variant: str | None = None) -> Layout:
  """Returns a component's name table for the names `name` ("official", "diffusers", ...)."""
  return next(layout for layout in COMPONENTS[component].layouts
              if layout.name == name and layout.variant in (None, "base" if name != "official"
                                                            else variant))


def fill(module: torch.nn.Module, original: Original, layout: Layout,
         only: Callable[[str], bool] | None = None, layer: int | None = None) -> None:
  """Copies the tensors of the files to a module's parameters, in float32.

  They are first rounded to the dtype in which the model folder stores them.

  Args:
    module: module whose parameters have the names of `layout`.
    original: the released files.
    layout: the module's name table; the files may have other names.
    only: predicate that selects parameters by our name; None selects all, and then the module must have
      no other parameters.
    layer: layer of the files that is copied to layer 0 of a module with one layer; None copies all layers.

  Raises:
    InputError: the module's parameters have other names or shapes.
  """
  state = module.state_dict()
  plain = layout.plain(state)
  pieces = {}  # {name in the module: [(row of the module, row and name in the files)]}
  for row in layout.leaves:
    source = original.plan.leaves.get(row.ours)
    if source is None or (only and not only(row.ours)):
      continue
    names = source.names(getattr(original.config, "num_layers", 1))
    if layer is not None:
      names = names[layer:layer + 1]
    for theirs, name in zip(row.names(len(names)), names, strict=True):
      pieces.setdefault(theirs, []).append((row, source, name))
  missing = sorted(pieces.keys() - plain.keys())
  extra = [] if only else sorted(plain.keys() - pieces.keys() - layout.unused_among(plain).keys())
  if missing or extra:
    raise _other_version(module, f"it {'lacks' if missing else 'also has'} {(missing or extra)[0]}")
  with torch.no_grad():
    for theirs, parts in pieces.items():
      array = _joined([_piece(original, *part) for part in parts])
      target = state[plain[theirs]]
      if tuple(target.shape) != array.shape:
        raise _other_version(module, f"its {theirs} is {list(target.shape)}, the file's "
                                     f"{list(array.shape)}")
      target.copy_(torch.from_numpy(array))


def _piece(original: Original, row, source, name: str) -> tuple[int, np.ndarray]:
  """Reads a tensor of the module, or a third of one, as a float32 array."""
  stored = original.stored[row.ours]
  array = np.asarray(source.take(original.plan.tensors[name].make()))
  array = array.astype(stored, copy=False).astype(np.float32)
  return row.third or 0, np.ascontiguousarray(row.transform.backward(array))


def _joined(parts: list[tuple[int, np.ndarray]]) -> np.ndarray:
  arrays = [array for _, array in sorted(parts, key=lambda part: part[0])]
  return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _other_version(module, what: str) -> InputError:
  return InputError(f"The {type(module).__name__} to compare with does not fit: {what}.\nIt is of "
                    "another version, or of other sizes, than this comparison knows.")
