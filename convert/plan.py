"""Recognition of the component of a checkpoint, and strict checks of its tensors."""

import collections
from collections.abc import Collection, Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import LazyArray
from emv3_jax.models.network import Params, named_leaves, nested

from .component import Component, Layout
from .names_encoders import AUDIO_ENCODER, IMAGE_ENCODER, TEXT_ENCODER
from .names_transformer import COMPONENT as TRANSFORMER
from .names_vae import COMPONENT as VAE
from .not_finite import NotFinite
from .sources import Checkpoint
from .table import Leaf, match
from .tensors import copy, open_tensors, shown
from .wrappers import prefixes, unwrapped, without_wrapped_layers

COMPONENTS = {component.name: component
              for component in (TRANSFORMER, VAE, TEXT_ENCODER, IMAGE_ENCODER, AUDIO_ENCODER)}
DTYPES = ("float32", "bfloat16", "float16")
LISTED = 8  # names of each problem that --inspect lists
FEW = 3  # names of each problem that a message lists


class Unrecognised(InputError):
  """Error for a checkpoint that is none of the components."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """A checkpoint recognised as a component, with all its problems.

  Attributes:
    tensors: tensors of the files, by the names of the table.
    leaves: rows of the table that the network has, by our name.
    missing, unexpected, misshapen: problems, by the names of the table.
    unused: {pattern: number} of tensors that published files contain, but the network does not use.
    dtype: dtype of the tensors that are used, "mixed" if they differ.
    notes: lines about harmless irregularities of the files.
  """

  checkpoint: Checkpoint
  component: Component
  layout: Layout
  config: Any
  abstract: Params
  tensors: Mapping[str, LazyArray]
  leaves: Mapping[str, Leaf]
  missing: tuple[str, ...]
  unexpected: tuple[str, ...]
  misshapen: tuple[str, ...]
  unused: Mapping[str, int]
  dtype: str
  notes: tuple[str, ...] = ()

  @property
  def problems(self) -> dict[str, tuple[str, ...]]:
    return {"missing": self.missing, "unexpected": self.unexpected, "misshapen": self.misshapen}

  @property
  def num_params(self) -> int:
    return sum(math.prod(leaf.shape) for leaf in named_leaves(self.abstract).values())

  def check(self) -> None:
    """Raises InputError with the first problems, if there are any."""
    if not any(self.problems.values()):
      return
    counts = ", ".join(f"{len(names)} {problem}" for problem, names in self.problems.items() if names)
    listed = "; ".join(f"{problem}: {', '.join(map(shown, names[:FEW]))}{', ...' * (len(names) > FEW)}"
                       for problem, names in self.problems.items() if names)
    raise InputError(f"{self.checkpoint.name}: not a whole {self.component.name} "
                     f"({_described(self.layout)}): {counts}.\n  {listed}\n"
                     "Give the checkpoint as published, for other sizes with --config_json; --inspect "
                     "lists more.")

  def params(self, dtype: str = "keep", counts: NotFinite | None = None) -> Params:
    """Returns our parameters as `LazyArray`s, each converted when it is read.

    Args:
      dtype: dtype of the result, or "keep" for that of the files.
      counts: counts values that are not finite while the parameters are converted.
    """
    counts = counts or NotFinite()
    return nested({name: self._stacked(leaf, shape.shape, dtype, counts)
                   for name, shape in named_leaves(self.abstract).items()
                   for leaf in [self.leaves[name]]})

  def _stacked(self, leaf: Leaf, shape, dtype: str, counts: NotFinite) -> LazyArray:
    names = leaf.names(shape[0])
    stored = np.dtype(self.tensors[names[0]].dtype if dtype == "keep" else dtype)

    def make():
      array = np.empty(shape, stored)
      layers = array if leaf.stacked else array[None]
      for layer, name in zip(layers, names, strict=True):
        tensor = self.tensors[name].make()
        with np.errstate(over="ignore"):  # `counts` reports it, by name
          copy(leaf.take(tensor), layer)
        counts.add(name, tensor, layer)
      return array

    return LazyArray(tuple(shape), stored, make)


def identify(checkpoint: Checkpoint, component: str = "auto",
             given: Mapping[str, Any] | None = None) -> Plan:
  """Recognises a checkpoint by the names of its tensors and compares it with the network.

  Args:
    checkpoint: files of the checkpoint.
    component: name of the expected component, or "auto" for any.
    given: config fields that take precedence over shapes and `config.json`, or {component: fields}.

  Raises:
    InputError: it is none of the components, another than `component`, or several at once.
  """
  if checkpoint.problem:
    raise InputError(checkpoint.problem)
  notes = []
  tensors = _selected(open_tensors(checkpoint.files, notes), checkpoint)
  candidates = [(prefix, part, layout) for prefix in prefixes(tensors)
                for part in COMPONENTS.values() for layout in part.layouts]
  explained = [_explained(prefix, layout, tensors) for prefix, _, layout in candidates]
  best = max(range(len(candidates)),
             key=lambda index: (len(explained[index]), -len(candidates[index][2].leaves)))
  prefix, part, layout = candidates[best]
  plain = _plain(prefix, layout, tensors)
  unused = layout.unused_among(plain.keys())
  # The file may contain other networks besides this one; the error for that is raised below.
  wrapped = [source for name, source in plain.items()
             if name not in unused and source.startswith(prefix)]
  if not explained[best] or 2 * len(explained[best]) < len(wrapped):
    raise _unrecognised(checkpoint, tensors)
  rest = tensors.keys() - explained[best] - {plain[name] for name in unused}
  others = [candidates[index] for index, names in enumerate(explained) if rest & names]
  if any((other, scheme) == (part, layout) for _, other, scheme in others):
    sets = sorted({wrapper for (wrapper, other, scheme), names in zip(candidates, explained, strict=True)
                   if (other, scheme) == (part, layout) and len(names) == len(explained[best])})
    raise InputError(f"{checkpoint.name} has the {part.name} more than once: its names begin with "
                     f"{' and with '.join(repr(found.removesuffix('.')) for found in sets)}.\n"
                     f"Choose one: --key={(sets[-1] or prefix).removesuffix('.')}")
  if others:
    names = sorted({f"{other.name} ({_described(scheme)})" for _, other, scheme in others
                    if other is part} or {other.name for _, other, _ in others})
    raise InputError(f"{checkpoint.name}: ambiguous: it has names of {part.name} "
                     f"({_described(layout)}) and of {', '.join(names)}.\n"
                     "Give one file per component.")
  if component not in ("auto", part.name):
    raise InputError(f"{checkpoint.name} holds a {part.name}, wanted was {component}.\n"
                     f"Drop --component, or give the file of the {component}.")
  by_table = {name: tensors[source] for name, source in plain.items()}
  given = given or {}
  if given.keys() <= COMPONENTS.keys():
    given = given.get(part.name, {})
    if not isinstance(given, Mapping):
      raise InputError(f"--config_json: {part.name} is {str(given)[:80]!r}, wanted an object of config "
                       "fields.")
  return _compare(checkpoint, part, layout, by_table, unused, given, tuple(notes))


def _selected(tensors: Mapping[str, LazyArray], checkpoint: Checkpoint) -> dict[str, LazyArray]:
  """Returns the tensors below the checkpoint's key."""
  if not checkpoint.key:
    return without_wrapped_layers(tensors)
  before = f"{checkpoint.key}."
  found = {name.removeprefix(before): tensor for name, tensor in tensors.items()
           if name.startswith(before)}
  if not found:
    first = sorted({name.split(".")[0] for name in tensors})
    raise InputError(f"{checkpoint.name} has no tensors below {shown(checkpoint.key)!r}; its names begin "
                     f"with {', '.join(map(shown, first[:FEW]))}{', ...' * (len(first) > FEW)}.\n"
                     "Correct --key, or leave it out.")
  return without_wrapped_layers(found)


def _unrecognised(checkpoint: Checkpoint, tensors: Mapping[str, LazyArray]) -> Unrecognised:
  names = ", ".join(map(shown, sorted(tensors)[:3]))
  if any(".lora_" in name for name in tensors):
    return Unrecognised(f"{checkpoint.name}: not recognised: it is a LoRA, a difference to the weights "
                        f"of a network, not a network. Its {len(tensors)} tensors are named {names}, ...\n"
                        "Give the network's own checkpoint.")
  return Unrecognised(f"{checkpoint.name}: not recognised. Its {len(tensors)} tensors are named "
                      f"{names}, ...\nKnown: {', '.join(COMPONENTS)}, as published or as in diffusers "
                      "and transformers; --key=WORDS takes the tensors below WORDS.")


def _compare(checkpoint, component: Component, layout: Layout, tensors, unused, given,
             notes: tuple[str, ...]) -> Plan:
  used = {name: tensor.shape for name, tensor in tensors.items() if name not in unused}
  found = match(layout.rows, used)
  config = component.infer_config(found, layout, checkpoint.beside, given)
  try:
    abstract = component.abstract(config, layout.variant)
  except ValueError as error:
    raise InputError(f"{checkpoint.name}: no {component.name} has these sizes ({error}).\n"
                     "Give the sizes that cannot be inferred from shapes with --config_json.") from error
  wanted = named_leaves(abstract)
  leaves = {leaf.ours: leaf for leaf in layout.leaves if leaf.ours in wanted}
  if leaves.keys() != wanted.keys():
    raise AssertionError(f"no row for {sorted(wanted.keys() - leaves.keys())}")
  missing, misshapen, expected = [], [], set()
  for name, leaf in leaves.items():
    shape = tuple(wanted[name].shape)
    names = leaf.names(shape[0])
    expected |= set(names)
    theirs = leaf.their_shape(shape[1:] if leaf.stacked else shape)
    for source in names:
      if source not in used:
        missing.append(f"{source} {list(theirs)}")
      elif tuple(used[source]) != theirs:
        misshapen.append(f"{source} is {list(used[source])}, wanted {list(theirs)}")
      elif str(tensors[source].dtype) not in DTYPES:
        misshapen.append(f"{source} is {tensors[source].dtype}, wanted {', '.join(DTYPES)}")
  dtypes = {str(tensors[name].dtype) for name in used}
  unexpected = [f"{name} {list(shape)}" for name, shape in used.items() if name not in expected]
  return Plan(checkpoint, component, layout, config, abstract, tensors, leaves,
              tuple(dict.fromkeys(missing)), tuple(unexpected), tuple(dict.fromkeys(misshapen)),
              collections.Counter(unused.values()), dtypes.pop() if len(dtypes) == 1 else "mixed", notes)


def _plain(prefix: str, layout: Layout, names: Collection[str]) -> dict[str, str]:
  """Returns {name as in the layout's rows: name in the file}."""
  outer = unwrapped(names, prefix)
  return {name: outer[inner] for name, inner in layout.plain(outer).items()}


def _explained(prefix: str, layout: Layout, names: Collection[str]) -> set[str]:
  """Returns the names of the file that match a row of a layout, without unused ones."""
  plain = _plain(prefix, layout, names)
  unused = layout.unused_among(plain.keys())
  unknown = match(layout.rows, {name: () for name in plain}).unknown
  return {source for name, source in plain.items() if name not in unused and name not in unknown}


def _described(layout: Layout) -> str:
  names = f"{layout.name} names"
  return f"variant {layout.variant}, {names}" if layout.variant else names
