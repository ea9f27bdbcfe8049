"""Reading of parts of a stored component: one leaf, one layer, some rows.

Orbax keeps each leaf as a zarr3 array under its dotted name in one OCDBT store. Leaves below
`blocks` are stacked over layers and stored a chunk or more per layer, so that one layer can
be read alone: a text encoder larger than memory runs layer by layer.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import math
import os
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
import tensorstore as ts

from emv3_jax.errors import InputError
from emv3_jax.io.model_card import read_model_card
from emv3_jax.models import int8
from emv3_jax.models.network import Params, named_leaves, nested

STACKED = "blocks"
PIECE_BYTES = 64 << 20


def is_stacked(leaf_name: str) -> bool:
  """Returns whether a leaf has a leading layers axis."""
  return leaf_name.startswith(STACKED + ".")


class StoredLeaf:
  """One leaf on disk. `leaf[index]` reads the part that a numpy index selects, cast to `dtype` if given."""

  def __init__(self, component: pathlib.Path, name: str, dtype=None):
    spec = {"driver": "zarr3",
            "kvstore": {"driver": "ocdbt", "base": f"file://{component.resolve() / 'state'}/",
                        "path": name + "/"}}
    self._path = component
    try:
      self._store = ts.open(spec, read=True, open=True).result()
    except ValueError as error:
      raise unreadable(component, error) from error
    self.shape = tuple(self._store.shape)
    self.dtype = np.dtype(dtype or self._store.dtype.numpy_dtype)

  def __getitem__(self, index) -> np.ndarray:
    return self.start(index)()

  def start(self, index: Any = ...) -> Callable[[], np.ndarray]:
    """Starts reading in the background; the returned function waits for the array and returns it."""
    future = self._store[index].read()

    def finish() -> np.ndarray:
      try:
        return future.result().astype(self.dtype, copy=False)
      except ValueError as error:
        raise unreadable(self._path, error) from error

    return finish

  def whole(self) -> np.ndarray:
    """Reads the whole leaf piece by piece, with little memory in addition to the result."""
    if not self.shape or 0 in self.shape:
      return self[...]
    result, row = np.empty(self.shape, self.dtype), 0
    for piece in self.pieces():
      result[row:row + len(piece)] = piece
      row += len(piece)
    return result

  def pieces(self) -> Iterator[np.ndarray]:
    """Yields the leaf in pieces of about `PIECE_BYTES` along the first axis, in order.

    The next piece is read in the background.
    """
    if not self.shape or 0 in self.shape:
      yield self[...]
      return
    size = math.prod(self.shape) * self.dtype.itemsize
    rows = max(1, self.shape[0] * PIECE_BYTES // size)
    pieces = [slice(start, min(start + rows, self.shape[0]))
              for start in range(0, self.shape[0], rows)]
    finish = self.start(pieces[0])
    for following in pieces[1:]:
      finished, finish = finish, self.start(following)
      yield finished()
    yield finish()


def quantised(leaf: StoredLeaf, kind: Any) -> Any:
  """Reads a leaf piece by piece as `kind` is in a tree of shapes: quantised, or whole."""
  if not int8.is_pair(kind):
    return leaf.whole()
  pieces = [int8.like(piece, kind) for piece in leaf.pieces()]
  return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


class ComponentStream:
  """A component for reading in parts; see `stream_component`."""

  def __init__(self, component: pathlib.Path, abstract: Params, dtype):
    self._kinds = named_leaves(abstract, is_leaf=int8.is_pair)
    self._leaves = {name: StoredLeaf(component, name, dtype or leaf.dtype)
                    for name, leaf in named_leaves(int8.float_shapes(abstract)).items()}
    self._ahead = {}

  @property
  def num_layers(self) -> int:
    return next(leaf.shape[0] for name, leaf in self._leaves.items() if is_stacked(name))

  def layer(self, index: int) -> Params:
    """Reads the tree below `blocks` of one layer, without the layers axis, as numpy arrays; quantises it if `abstract` is.

    The next layer is read in the background, so that two layers are in memory.
    """
    reading = self._ahead.pop(index, None) or self._start(index)
    self._ahead = {index + 1: self._start(index + 1)} if index + 1 < self.num_layers else {}
    return nested({name.removeprefix(STACKED + "."): int8.like(finish(), self._kinds[name])
                   for name, finish in reading.items()})

  def part(self, path: str) -> Params:
    """Reads the tree below a dotted path, e.g. "norm", as numpy arrays."""
    below = self._below(path)
    return nested({name: quantised(leaf, self._kinds[f"{path}.{name}"]) for name, leaf in below.items()})

  def rows(self, path: str) -> Params:
    """Returns the tree of `part` with leaves that read only the indexed rows, never quantised.

    For an embedding table: `stream.rows("token_embedding")["embedding"][ids]`.
    """
    return nested(self._below(path))

  def _below(self, path):
    return {name.removeprefix(path + "."): leaf for name, leaf in self._leaves.items()
            if name.startswith(path + ".")}

  def _start(self, index):
    return {name: leaf.start(index) for name, leaf in self._leaves.items() if is_stacked(name)}


def stream_component(folder: str | os.PathLike, name: str, abstract: Params, *,
                     dtype=None) -> ComponentStream:
  """Opens a component for reading in parts.

  Args:
    folder: the model folder.
    name: e.g. "text_encoder".
    abstract: the network's `abstract` tree; names and shapes must be exactly those stored, as float arrays.
    dtype: dtype of the result; None takes that of each leaf of `abstract`.

  Raises:
    InputError: the component is missing or incomplete, or does not fit `abstract`.
  """
  return ComponentStream(fitting_component(folder, name, abstract), abstract, dtype)


def fitting_component(folder: str | os.PathLike, name: str, abstract: Params,
                      variant: str | None = None) -> pathlib.Path:
  """Returns the path of a component after checking that it is complete and fits `abstract`.

  Raises:
    InputError: it is missing, incomplete, of another variant, or has other names or shapes.
  """
  card = read_model_card(folder)
  card.require(name, variant)
  path = (card.folder / name).absolute()  # Orbax needs an absolute path
  got = {key: tuple(leaf.shape) for key, leaf in stored_leaves(path).items()}
  check_fit(f"{path} (variant {card.variant})", got, int8.float_shapes(abstract))
  return path


def check_fit(where: str, got: Mapping[str, tuple[int, ...]], abstract: Params) -> None:
  """Checks that stored leaves have the names and shapes of `abstract`.

  Args:
    where: what holds them, for the message.
    got: shapes by dotted name.
    abstract: the network's tree.

  Raises:
    InputError: a leaf is missing, is not wanted, or has another shape.
  """
  want = {key: tuple(leaf.shape) for key, leaf in named_leaves(abstract).items()}
  problems = [f"missing {key}" for key in sorted(want.keys() - got.keys())]
  problems += [f"unexpected {key}" for key in sorted(got.keys() - want.keys())]
  problems += [f"{key} is {got[key]}, wanted {want[key]}"
             for key in sorted(got.keys() & want.keys()) if got[key] != want[key]]
  if problems:
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    raise InputError(f"{where} does not fit the config: "
                     f"{'; '.join(problems[:3])}{more}.\n"
                     "Give the config of that checkpoint, or the checkpoint of that config.")


def stored_leaves(component: pathlib.Path) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns names, shapes and dtypes of a component's leaves, from its metadata.

  Raises:
    InputError: the component cannot be read.
  """
  try:
    with _quiet_orbax():
      tree = ocp.metadata(os.fspath(component)).metadata
  except (OSError, ValueError) as error:
    raise unreadable(component, error) from error
  if tree is None:
    raise unreadable(component, ValueError("its list of arrays is damaged"))
  return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
          for name, leaf in named_leaves(tree).items()}


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
  """Hides Orbax's long log messages about damaged files; the error that follows says it in one line."""
  logger = logging.get_absl_logger()
  mute = lambda record: "orbax" not in record.pathname
  logger.addFilter(mute)
  try:
    yield
  finally:
    logger.removeFilter(mute)


def unreadable(component: pathlib.Path, error: Exception) -> InputError:
  reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
  return InputError(f"{component} cannot be read ({reason}).\nConvert or copy it again.")
