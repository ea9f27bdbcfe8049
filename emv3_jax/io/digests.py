"""Digests of weights and files, which identify contents independent of path and storage format.

The digest of a component is a sha256 over its leaves, sorted by their dotted names: name, dtype,
shape, and the sha256 of the elements in C order. It does not depend on chunks,
on the mesh, or on the release of Orbax that wrote the leaves.
"""

import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib
import stat
import time

from absl import logging
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io import paths
from emv3_jax.io.atomic import write_json
from emv3_jax.io.model_card import ModelCard, read_model_card
from emv3_jax.io.stored_leaves import StoredLeaf, stored_leaves
from emv3_jax.models.network import Params, named_leaves

CACHE = pathlib.Path("~/.cache/emv3_jax/digests")
THREADS = 4  # each holds two pieces of a leaf
_computed: dict[str, str] = {}  # like CACHE, used if that cannot be written


def component_digest(component: str | os.PathLike, part: str = "") -> str:
  """Computes the digest, in hex, of a component's folder; weights are streamed with at most 0.5 GiB of memory.

  Args:
    component: the folder.
    part: dotted name of the tree in it to compute the digest of; empty takes all.

  Raises:
    InputError: the component cannot be read.
  """
  component = pathlib.Path(component).absolute()  # Orbax needs an absolute path
  before = f"{part}." if part else ""
  names = [name.removeprefix(before) for name in stored_leaves(component) if name.startswith(before)]
  return _together(names, lambda name: _of_stored(StoredLeaf(component, before + name)))


def params_digest(params: Params) -> str:
  """Computes `component_digest` of a nested dict of arrays whose shards are all in this process."""
  leaves = named_leaves(params)
  return _together(leaves, lambda name: _of_array(np.asarray(leaves[name])))


def _together(names, of_leaf) -> str:
  names = sorted(names)
  with concurrent.futures.ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
    lines = [json.dumps([name, *found]) for name, found in zip(
        names, threads.map(of_leaf, names), strict=True)]
  return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _of_stored(leaf: StoredLeaf) -> tuple[str, list[int], str]:
  found = hashlib.sha256()
  for piece in leaf.pieces():
    found.update(_bytes(piece))
  return str(leaf.dtype), list(leaf.shape), found.hexdigest()


def _of_array(array: np.ndarray) -> tuple[str, list[int], str]:
  return str(array.dtype), list(array.shape), hashlib.sha256(_bytes(array)).hexdigest()


def _bytes(array: np.ndarray) -> memoryview:
  return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def weights_digest(card: ModelCard, name: str) -> str:
  """Returns the digest of component `name` that was recorded when it was written.

  Folders of version 0.1 record none; their digest is computed once and cached in `CACHE`.

  Raises:
    InputError: the component does not exist, is incomplete, or cannot be read.
  """
  component = card.require(name)
  return component.digest or _remembered(card.folder / name)


def _remembered(component: pathlib.Path) -> str:
  key = _key(component)
  found = _computed.get(key) or _kept(key)
  if found is None:
    size = sum(path.stat().st_size for path in component.rglob("*") if path.is_file())
    logging.info("%s has no digest of its weights, as version 0.1 wrote it: reading %.2f GB for it, "
                 "this once.", component, size / 1e9)
    found = component_digest(component)
    try:
      file = _file_of(key)
      file.parent.mkdir(parents=True, exist_ok=True)
      write_json(file, {"component": str(component.resolve()), "digest": found})
    except (OSError, InputError) as error:
      logging.warning("The digest of %s is not kept for the next run: %s", component, error)
  return _computed.setdefault(key, found)


def _key(component: pathlib.Path) -> str:
  """Computes a key from path, names, sizes and times that changes if a file of the component changes."""
  files = [[str(path.relative_to(component)), status.st_size, status.st_mtime_ns]
           for path in sorted(component.rglob("*")) if path.is_file() for status in [path.stat()]]
  return hashlib.sha256(json.dumps([str(component.resolve()), files]).encode()).hexdigest()


def _file_of(key: str) -> pathlib.Path:
  return paths.expanded(CACHE) / f"{key}.json"


def _kept(key: str) -> str | None:
  try:
    content = json.loads(_file_of(key).read_text(encoding="utf-8"))
  except (InputError, OSError, ValueError):
    return None
  found = content.get("digest") if isinstance(content, dict) else None
  return found if isinstance(found, str) and found else None


def verify_digests(folder: str | os.PathLike) -> dict[str, str]:
  """Reads all weights of a model folder and compares their digests with the recorded ones.

  Components of version 0.1 have no recorded digest and are only read.

  Returns:
    The digest of each component.

  Raises:
    InputError: weights differ from those that were written, or a component is incomplete.
  """
  card, begin = read_model_card(folder), time.monotonic()
  for path in card.folder.glob("*.unfinished*"):
    name = path.name.partition(".")[0]
    if name not in card.components:
      card.require(name)  # raises an error which says that it is being written
  found, unrecorded = {}, []
  for name in sorted(card.components):
    recorded = card.require(name).digest
    found[name] = component_digest(card.folder / name)
    if not recorded:
      unrecorded.append(name)
    elif found[name] != recorded:
      raise InputError(
          f"{card.folder / name}: the weights are not those that were written (digest "
          f"{found[name][:12]}..., recorded {recorded[:12]}...).\nThe files were damaged or "
          "replaced: copy or convert the component again.")
  logging.info("The weights of %s have their digests: %d components in %.1f s%s.", card.folder, len(found),
               time.monotonic() - begin,
               f"; no digest is recorded of {', '.join(unrecorded)}" if unrecorded else "")
  return found


def untrained_digest(config, seed: int, name: str) -> str:
  """Returns the digest of the parameters that `Network.untrained` draws for component `name` from `seed`."""
  architecture = hashlib.sha256(repr(config).encode()).hexdigest()
  return f"untrained-{name}-{seed}-{architecture[:16]}"


def file_digest(path: str | os.PathLike) -> str:
  """Returns the sha256, in hex, of a file; an unchanged size and modification time returns the earlier result.

  Raises:
    InputError: there is no such file, or it cannot be read.
  """
  try:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
      raise InputError(f"{path} cannot be read: it is not a regular file.")  # reading a pipe would block
    return _read_once(os.path.realpath(path), status.st_ino, status.st_size, status.st_mtime_ns)
  except OSError as error:
    raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


@functools.lru_cache(maxsize=4096)
def _read_once(path: str, *_) -> str:
  return file_digest_now(path)


def file_digest_now(path: str | os.PathLike) -> str:
  """Computes the sha256, in hex, of the current contents of a file.

  Raises:
    OSError: there is no such file, or it cannot be read.
  """
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
