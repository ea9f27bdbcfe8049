"""Model folders: one Orbax checkpoint per component, and `model.json`, which describes them.

    DIR/model.json        schema, variant, and of every component: config, dtype, sources, size,
                          digest of the weights
    DIR/transformer/      an Orbax checkpoint (likewise vae, text_encoder, image_encoder,
                          audio_encoder)
    DIR/tokenizer/        tokenizer.json

A component appears complete or not at all: it is written to a temporary folder and renamed, and the
card is written last. Leaves are written in batches, so that saving takes little memory in addition to
the parameters; if these are `LazyArray`s, it takes little memory in total.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import errno
import math
import os
import pathlib
import shutil
import time

from absl import logging
import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from emv3_jax.errors import InputError
from emv3_jax.io import leaf_writing
from emv3_jax.io.atomic import atomic_file
from emv3_jax.io.digests import component_digest
from emv3_jax.io.leaf_writing import (
  LazyArray,
  check_space,
  in_batches,
  num_bytes,
  return_memory,
  write_leaves,
)
from emv3_jax.io.model_card import (
  CARD,
  TRANSFORMER,
  ComponentCard,
  ModelCard,
  SamplingCard,
  measure,
  read_model_card,
  write_model_card,
)
from emv3_jax.io.stored_leaves import (
  StoredLeaf,
  fitting_component,
  quantised,
  stream_component,
  unreadable,
)
from emv3_jax.models import int8
from emv3_jax.models.network import Params, named_leaves, nested
from emv3_jax.runtime import kept_programs, start_up

__all__ = ["LazyArray", "ModelCard", "load_component", "read_model_card", "save_component",
           "stream_component", "write_tokenizer"]

REMOVALS = 50  # attempts to remove a folder to which files are being added


def save_component(folder: str | os.PathLike, name: str, params: Params, *, config: Mapping,
                   variant: str | None = None, dtype: str | None = None,
                   sources: Sequence[Mapping] = (), model_name: str = "",
                   sampling: SamplingCard | None = None, features: Mapping = {}) -> None:
  """Writes one component into a model folder, which is created if missing.

  A component of that name is replaced. Every process calls this with its shards of `params`.

  Args:
    folder: the model folder.
    name: e.g. "transformer".
    params: nested dict of `jax.Array`, `np.ndarray` or `LazyArray`.
    config: JSON-able fields of the network's config.
    variant: recorded as the variant of the whole folder; None keeps the recorded one.
    dtype: dtype that the leaves are cast to; None keeps their dtypes.
    sources: {"file", "sha256", "bytes"} of each file the parameters came from.
    model_name, sampling: of a transformer: name and sampling settings of the model.
    features: settings of its feature extractor, see `ComponentCard`.

  Raises:
    InputError: the folder is not writable or the disk is full.
  """
  folder = pathlib.Path(folder).absolute()  # Orbax needs an absolute path
  first = jax.process_index() == 0
  fresh = folder / f"{name}.unfinished"
  try:
    if first:
      folder.mkdir(parents=True, exist_ok=True)
      _check_replaceable(folder / name)
      check_space(folder, params, dtype)
      _remove(*folder.glob(fresh.name + "*"))
    _barrier(f"save_{name}_start")
    dtypes = write_leaves(fresh, params, dtype)
    if first:
      card = ComponentCard(dict(config), dtypes.pop() if len(dtypes) == 1 else "mixed",
                           tuple(map(dict, sources)), *measure(fresh), component_digest(fresh),
                           dict(features))
      _publish(folder, name, fresh, card, variant, model_name, sampling)
    _barrier(f"save_{name}_end")
  except OSError as error:
    raise InputError(f"{folder}: {name} could not be written ({error.strerror or error}).\n"
                     "No partial file was kept; free disk space or choose another folder."
                     ) from error
  finally:
    if first:
      _remove(*folder.glob(fresh.name + "*"))
  logging.info("Wrote %s.", folder / name)


def load_component(folder: str | os.PathLike, name: str, abstract: Params, *, shardings=None,
                   dtype=None, variant: str | None = None) -> Params:
  """Reads one component; each process reads only the shards of its own devices.

  Args:
    folder: the model folder.
    name: e.g. "transformer".
    abstract: the network's `abstract` tree; names and shapes must be exactly those stored. What is int8
      there is stored as floats and quantised when read, leaf by leaf.
    shardings: a tree of `jax.sharding.Sharding` like `abstract`, or one for all leaves; None for
      the first local device.
    dtype: dtype of the result; None takes that of each leaf of `abstract`.
    variant: required variant of the folder; None accepts any.

  Returns:
    Nested dict of `jax.Array`.

  Raises:
    InputError: the folder, the card or the component is missing or incomplete, of another
      variant, or does not fit `abstract`.
  """
  path = fitting_component(folder, name, abstract, variant)
  if shardings is None:
    return _load_to(jax.local_devices()[0], path, abstract, dtype)
  if isinstance(shardings, jax.sharding.Sharding):
    shardings = jax.tree.map(lambda _, one=shardings: one, abstract)
  kinds, placed = (named_leaves(tree, is_leaf=int8.is_pair) for tree in (abstract, shardings))
  wanted = {name: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=int8.of_array(placed[name]))
            for name, leaf in named_leaves(int8.float_shapes(abstract)).items()}
  loaded = {}
  for batch in in_batches(nested(wanted)):
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    context.memory.read_concurrent_bytes = max(leaf_writing.BATCH_BYTES, *(8 * math.prod(leaf.shape)
                                                              for leaf in batch.values()))
    try:
      with start_up.part("read"), context:
        found = named_leaves(ocp.load(os.fspath(path), nested(batch)))
    except (OSError, ValueError) as error:
      raise unreadable(path, error) from error
    for name in list(found):
      loaded[name] = _as(kinds[name], found.pop(name), placed[name])
    return_memory()
  return nested(loaded)


def _as(kind, array: jax.Array, shardings):
  """Quantises an array of a mesh, if `kind` is quantised, and waits until it can be freed."""
  if not int8.is_pair(kind):
    return array

  def quantise(array):
    return int8.like(array, kind)

  return jax.block_until_ready(kept_programs.jit(quantise, repr(kind), out_shardings=shardings)(array))


def _load_to(device, path: pathlib.Path, abstract: Params, dtype) -> Params:
  """Reads the leaves one by one to one device, with little memory in addition to the result."""
  loaded = {}
  kinds = named_leaves(abstract, is_leaf=int8.is_pair)
  for name, leaf in named_leaves(int8.float_shapes(abstract)).items():
    with start_up.part("read"):
      array = quantised(StoredLeaf(path, name, dtype or leaf.dtype), kinds[name])
    with start_up.part("place"):
      loaded[name] = jax.block_until_ready(jax.device_put(array, device))
    del array
    if num_bytes(leaf) > leaf_writing.CHUNK_BYTES:
      return_memory()
  return nested(loaded)


def write_tokenizer(folder: str | os.PathLike, source: str | os.PathLike) -> None:
  """Copies a `tokenizer.json` to DIR/tokenizer/tokenizer.json atomically.

  Raises:
    InputError: it cannot be written.
  """
  target = pathlib.Path(folder) / "tokenizer" / "tokenizer.json"
  with contextlib.suppress(OSError):  # atomic_file names the path that is in the way
    target.parent.mkdir(parents=True, exist_ok=True)
  with atomic_file(target) as temporary:
    shutil.copyfile(source, temporary)


def _check_replaceable(final: pathlib.Path) -> None:
  """Raises InputError for an existing folder that this module did not write, e.g. a diffusers download."""
  if final.exists() and not (final / "orbax.checkpoint").exists():
    raise InputError(f"{final} exists and is not a converted component; it will not be replaced.\n"
                     "Choose another folder for the converted model.")


def _publish(folder: pathlib.Path, name: str, fresh: pathlib.Path, card: ComponentCard,
             variant: str | None, model_name: str, sampling: SamplingCard | None) -> None:
  """Renames a finished component and enters it in the card, which never lists one that does not exist."""
  final, superseded = folder / name, folder / f"{name}.superseded"
  old = read_model_card(folder) if (folder / CARD).exists() else ModelCard(folder, variant, {})
  others = {key: value for key, value in old.components.items() if key != name}
  _remove(superseded)
  if final.exists():
    write_model_card(dataclasses.replace(old, components=others))
    final.rename(superseded)
  fresh.rename(final)
  if name != TRANSFORMER:
    model_name, sampling = old.name, old.sampling
  write_model_card(ModelCard(folder, variant or old.variant, {**others, name: card}, model_name,
                             sampling))
  _remove(superseded)


def _remove(*paths: pathlib.Path) -> None:
  """Removes folders, repeatedly: after an error for a full disk, threads of Orbax may still be writing to one."""
  for path in paths:
    for attempt in range(REMOVALS):
      try:
        if path.exists():
          shutil.rmtree(path)
        break
      except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT) or attempt == REMOVALS - 1:
          raise
        time.sleep(0.1)


def _barrier(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
