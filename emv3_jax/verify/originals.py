"""Search for the released files that a model folder was converted from, and their identification."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import os
import pathlib
from typing import Any

from absl import logging
import numpy as np

from emv3_jax.convert.plan import Plan, identify
from emv3_jax.convert.sources import WEIGHT_SUFFIXES, Checkpoint
from emv3_jax.errors import InputError
from emv3_jax.io.model_card import ModelCard, read_model_card
from emv3_jax.io.paths import expanded
from emv3_jax.io.stored_leaves import stored_leaves
from emv3_jax.runtime.command_names import as_called


@dataclasses.dataclass(frozen=True)
class Original:
  """One component as it was published, and the dtypes with which it is stored.

  Attributes:
    plan: mapping of the files' tensors to parameters.
    config: the network's config in the model folder.
    stored: dtype of every parameter in the model folder, by our name.
    files: {"component", "file", "bytes", "sha256"} of each file.
  """

  plan: Plan
  config: Any
  stored: Mapping[str, np.dtype]
  files: tuple[dict, ...]


def read_folder(folder: str | os.PathLike, parts: Sequence[str]) -> ModelCard:
  """Reads the card of a model folder and checks that it can be verified.

  Args:
    folder: model folder written by `python -m convert`.
    parts: the selected components.

  Raises:
    InputError: it is not a model folder, is still being written, lacks a part or has one that was not
      converted from files, or its transformer has no audio.
  """
  folder = pathlib.Path(folder)
  unfinished = sorted(folder.glob("*.unfinished*")) if folder.is_dir() else []
  if unfinished:
    raise InputError(f"{folder} is being written, or its conversion was cut off: it has "
                     f"{unfinished[0].name}.\nWait for `{as_called('emv3-convert')}`, or run it again.")
  card = read_model_card(folder)
  if "transformer" in parts and card.variant == "base":
    raise InputError(f"{folder} holds the base model (variant base), which has no audio and is not "
                     "sampled from.\nConvert EchoMimicV3's transformer into it, or leave the "
                     "transformer out with --parts.")
  for name in parts:
    files = [source["file"] for source in card.require(name).sources]
    if not files or not all(file.lower().endswith(WEIGHT_SUFFIXES) for file in files):
      raise InputError(f"{folder}: its {name} was not converted from files but comes from a "
                       "training run, so there is nothing to compare it with.\nGive the folder "
                       f"that `{as_called('emv3-convert')}` wrote, or leave it out with --parts.")
  return card


def find_originals(card: ModelCard, parts: Sequence[str],
                   places: Sequence[str] = ()) -> dict[str, Original]:
  """Finds the files of every part; returns them by component.

  A file is identified by its size and sha256; its name does not matter.

  Args:
    card: card of the model folder.
    parts: components whose files are searched.
    places: folders or files to search; the Hugging Face cache if it is empty.

  Raises:
    InputError: a folder does not exist, a file is not found or has changed, or it does not hold the
      component.
  """
  candidates = list(_weight_files(places))
  found, digests = {}, {}
  for name in parts:
    sources = card.components[name].sources
    files = tuple(_find(source, candidates, digests, places) for source in sources)
    config = card.components[name].config
    key = sources[0].get("key", "")
    plan = identify(Checkpoint(files[0].name, files, {}, key), name, dict(config))
    plan.check()
    stored = {leaf: info.dtype
              for leaf, info in stored_leaves((card.folder / name).absolute()).items()}
    found[name] = Original(plan, plan.config, stored, tuple(
        {"component": name, **source} for source in sources))
  return found


def _weight_files(places: Sequence[str]) -> Iterator[pathlib.Path]:
  for given in places or (_hub_cache(),):
    root = expanded(given)
    if root.is_file():
      yield root
    elif root.is_dir():
      for folder, _, names in os.walk(root):
        paths = (pathlib.Path(folder, name) for name in sorted(names)
                 if name.lower().endswith(WEIGHT_SUFFIXES))
        yield from (path for path in paths if path.is_file())  # the cache may have broken links
    elif places:
      raise InputError(f"--sources={root} does not exist; give the folders of the downloaded files.")


def _hub_cache() -> str:
  from huggingface_hub import constants  # imported here, because most runs give their folders
  return constants.HF_HUB_CACHE


def _find(source: Mapping, candidates: Iterable[pathlib.Path], digests: dict,
          places: Sequence[str]) -> pathlib.Path:
  """Finds the file that `source`, an entry of the card, describes."""
  changed = []
  for path in candidates:
    try:
      size = path.stat().st_size
      if size == source["bytes"] and _digest(path, digests) == source["sha256"]:
        return path
    except OSError as error:
      raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    if path.name == source["file"]:
      changed.append(f"{path} ({size} bytes)" if size != source["bytes"] else
                     f"{path} (sha256 {_digest(path, digests)[:16]}...)")
  wanted = f"{source['bytes']} bytes, sha256 {source['sha256'][:16]}..."
  if changed:
    raise InputError(f"{source['file']} is not the file that was converted ({wanted}): found "
                     f"{', '.join(changed)}.\nGive the folder of that file with --sources, or "
                     "convert the new one.")
  where = ", ".join(map(str, places)) or f"the Hugging Face cache {_hub_cache()}"
  raise InputError(f"{source['file']} ({wanted}) is not in {where}.\n"
                   "Give its folder: --sources=DIR[,DIR...]")


def _digest(path: pathlib.Path, digests: dict) -> str:
  if path not in digests:
    logging.info("Reading %s (%.1f GB) for its sha256.", path.name, path.stat().st_size / 1e9)
    with path.open("rb") as content:
      digests[path] = hashlib.file_digest(content, "sha256").hexdigest()
  return digests[path]
