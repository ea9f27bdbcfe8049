"""Name tables: the mapping of tensors of a released file to parameters.

A table is a tuple of `Row(ours, kind, theirs)`. `ours` and `theirs` are the dotted paths of a
module, or of a single tensor; the kind says which tensors the module has on each side and how they
are converted. `{l}` in `theirs` is the layer number: those tensors are stacked, in our
parameters, along a leading layers axis.

Transforms only move axes, so the reverse conversion gives the same bits.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import re

import numpy as np


@dataclasses.dataclass(frozen=True)
class Transform:
  """A rearrangement of axes and its inverse, as numpy views."""

  name: str
  forward: Callable[[np.ndarray], np.ndarray]
  backward: Callable[[np.ndarray], np.ndarray]

  def shape(self, theirs: tuple[int, ...]) -> tuple[int, ...]:
    """Returns our shape of a tensor with the shape `theirs`.

    Raises:
      ValueError: the transform does not apply to that shape.
    """
    return self.forward(np.broadcast_to(np.int8(0), theirs)).shape


def _drop(*axes: int) -> Transform:
  return Transform(f"drop axes {axes}", lambda x: np.squeeze(x, axes),
                   lambda x: np.expand_dims(x, axes))


def _then(first: Transform, second: Transform) -> Transform:
  return Transform(f"{first.name}, {second.name}",
                   lambda x: second.forward(first.forward(x)),
                   lambda x: first.backward(second.backward(x)))


SAME = Transform("same", lambda x: x, lambda x: x)
# PyTorch stores [out, in, *window], this project [*window, in, out].
REVERSED = Transform("[out, in, *window] -> [*window, in, out]",
                     lambda x: np.moveaxis(x, (1, 0), (-2, -1)),
                     lambda x: np.moveaxis(x, (-2, -1), (1, 0)))


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One of our leaves, and the tensor (or third of a tensor) that it is converted from.

  Attributes:
    ours: our dotted name.
    theirs: name in the file, with `{l}` for the layer number if ours is stacked.
    transform: transform from theirs to ours.
    third: 0, 1 or 2 if ours is that third of the tensor's first axis (fused q, k, v).
  """

  ours: str
  theirs: str
  transform: Transform
  third: int | None = None

  @property
  def stacked(self) -> bool:
    return "{l}" in self.theirs

  def names(self, layers: int) -> list[str]:
    """Returns the names in the file, one per layer."""
    if not self.stacked:
      return [self.theirs]
    return [self.theirs.format(l=layer) for layer in range(layers)]

  def take(self, tensor: np.ndarray) -> np.ndarray:
    """Returns our array (of one layer) as a view of the file's tensor."""
    if self.third is not None:
      size = tensor.shape[0] // 3
      tensor = tensor[self.third * size:(self.third + 1) * size]
    return self.transform.forward(tensor)

  def our_shape(self, theirs: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of one layer of ours; raises ValueError if `theirs` does not fit."""
    if self.third is not None:
      if not theirs or theirs[0] % 3:
        raise ValueError(f"first axis of {theirs} is not divisible by 3")
      theirs = (theirs[0] // 3, *theirs[1:])
    return self.transform.shape(theirs)

  def their_shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of the file's tensor; the inverse of `our_shape`."""
    theirs = self.transform.backward(np.broadcast_to(np.int8(0), ours)).shape
    return theirs if self.third is None else (3 * theirs[0], *theirs[1:])


@dataclasses.dataclass(frozen=True)
class Kind:
  """Which tensors a module has: (our suffix, their suffix, transform), and which third of a fused tensor they are."""

  tensors: tuple[tuple[str, str, Transform], ...]
  third: int | None = None


LINEAR = Kind(((".kernel", ".weight", REVERSED), (".bias", ".bias", SAME)))
CONV = LINEAR  # of any rank
POINTWISE_2D = Kind(((".kernel", ".weight", _then(_drop(2, 3), REVERSED)), (".bias", ".bias", SAME)))
POINTWISE_3D = Kind(((".kernel", ".weight", _then(_drop(2, 3, 4), REVERSED)),
                     (".bias", ".bias", SAME)))
MATRIX = Kind(((".kernel", ".weight", REVERSED),))  # linear or convolution without a bias
NORM = Kind(((".scale", ".weight", SAME), (".bias", ".bias", SAME)))
GAIN = Kind(((".scale", ".weight", SAME),))
GAMMA_2D = Kind(((".scale", ".gamma", _drop(1, 2)),))
GAMMA_3D = Kind(((".scale", ".gamma", _drop(1, 2, 3)),))
EMBEDDING = Kind(((".embedding", ".weight", SAME),))
TENSOR = Kind((("", "", SAME),))  # both paths name the tensor itself
TENSOR_REVERSED = Kind((("", "", REVERSED),))
TENSOR_OF_ONE = Kind((("", "", _drop(0)),))  # a leading axis of size 1 is dropped
TENSOR_OF_ONE_ONE = Kind((("", "", _drop(0, 1)),))


def third(index: int) -> Kind:
  """Returns the kind of a linear layer that is a third of a fused one: 0 queries, 1 keys, 2 values."""
  return Kind(LINEAR.tensors, index)


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of a name table; see the docstring of this module."""

  ours: str
  kind: Kind
  theirs: str

  def leaves(self) -> list[Leaf]:
    return [Leaf(self.ours + our, self.theirs + their, transform, self.kind.third)
            for our, their, transform in self.kind.tensors]


def columns(table: Iterable[tuple[str, Kind, str, str]]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
  """Splits a table with two columns of file names, (ours, kind, first, second), into two tables."""
  table = tuple(table)
  return (tuple(Row(ours, kind, first) for ours, kind, first, _ in table),
          tuple(Row(ours, kind, second) for ours, kind, _, second in table))


@dataclasses.dataclass(frozen=True)
class Match:
  """Names of a file, matched with a name table.

  Attributes:
    shapes: {our leaf: {layer, or None if not stacked: shape of ours}}.
    wrong_rank: {name in the file: shape} of the tensors to which the transform does not apply.
    unknown: names in the file that match no row.
  """

  shapes: dict[str, dict[int | None, tuple[int, ...]]]
  wrong_rank: dict[str, tuple[int, ...]]
  unknown: tuple[str, ...]

  @property
  def layers(self) -> int:
    """Returns the highest layer number plus one; 0 if nothing is stacked."""
    return max((layer + 1 for layers in self.shapes.values() for layer in layers
                if layer is not None), default=0)

  def size(self, ours: str, axis: int) -> int | None:
    """Returns the size of an axis of our leaf (of the first existing layer), None if it is missing."""
    shape = next(iter(self.shapes.get(ours, {}).values()), None)
    return None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]


def match(rows: Iterable[Row], shapes: Mapping[str, tuple[int, ...]]) -> Match:
  """Matches the named shapes of a file with our leaves."""
  leaves = [leaf for row in rows for leaf in row.leaves()]
  by_name, by_pattern = {}, {}
  for leaf in leaves:  # names with a layer number are looked up by their pattern
    (by_pattern if leaf.stacked else by_name).setdefault(leaf.theirs, []).append(leaf)
  found, wrong_rank, unknown = {}, {}, []
  for name, shape in shapes.items():
    hits = [(leaf, None) for leaf in by_name.get(name, ())]
    for number in re.finditer(r"(?<=\.)(0|[1-9]\d*)(?=\.)", name):
      pattern = f"{name[:number.start()]}{{l}}{name[number.end():]}"
      hits += [(leaf, int(number.group())) for leaf in by_pattern.get(pattern, ())]
    if not hits:
      unknown.append(name)
    for leaf, layer in hits:
      try:
        found.setdefault(leaf.ours, {})[layer] = leaf.our_shape(shape)
      except ValueError:  # numpy's AxisError is one
        wrong_rank[name] = shape
  return Match(found, wrong_rank, tuple(unknown))
