"""Where the weights are: a file, a folder, or a repository of the Hugging Face hub."""

import dataclasses
import json
import pathlib
import re
from typing import Any

from absl import logging

from convert.file_kinds import WEIGHT_SUFFIXES
from emv3_jax.errors import InputError

MAX_DEPTH = 3  # folders below SOURCE that are looked into
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?P<folder>/[\w./-]+)?(@(?P<revision>[\w./-]+))?")
HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.pth", "*.bin", "*.bin.index.json",
             "*config.json", "*tokenizer.json")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """The files of one checkpoint and the `config.json` beside them, {} where there is none.

  `key` names what is taken of files that hold more: tensors whose names begin with it and a dot.
  """

  name: str
  files: tuple[pathlib.Path, ...]
  beside: dict[str, Any]
  key: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
  """What was found: checkpoints, and the text encoder's tokenizer.json where there is one."""

  name: str
  checkpoints: tuple[Checkpoint, ...]
  tokenizer: pathlib.Path | None


def find(source: str) -> Source:
  """Looks for checkpoints in a file, a folder, or `owner/name[/folder][@revision]` on the hub.

  Raises:
    InputError: there is no such file or repository, or no weights in it.
  """
  path = pathlib.Path(source).expanduser()
  if not path.exists():
    path = _download(source)
  if path.is_file():
    if path.name == "tokenizer.json":
      return Source(source, (), path)
    files = _shards(path) if path.name.endswith(".index.json") else (path,)
    return Source(source, (Checkpoint(path.name, files, _config(path.parent)),), None)
  checkpoints, tokenizers = [], []
  for folder in _folders(path):
    checkpoints += _checkpoints(folder, path)
    if (folder / "tokenizer.json").is_file() and folder.name in ("umt5-xxl", "tokenizer"):
      tokenizers.append(folder / "tokenizer.json")
  if len(tokenizers) > 1:
    raise InputError(f"{source} has several tokenizers: {', '.join(map(str, tokenizers))}.\n"
                     "Give the folder of the one that belongs to umT5.")
  if not checkpoints and not tokenizers:
    raise InputError(f"{source} has no weights: wanted files that end in "
                     f"{', '.join(WEIGHT_SUFFIXES)}.")
  return Source(source, tuple(checkpoints), tokenizers[0] if tokenizers else None)


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
  below = (path for path in sorted(root.rglob("*")) if path.is_dir())
  inside = [path for path in below if len(path.relative_to(root).parts) <= MAX_DEPTH
            and not any(part.startswith(".") for part in path.relative_to(root).parts)]
  return [root, *inside]


def _checkpoints(folder: pathlib.Path, root: pathlib.Path) -> list[Checkpoint]:
  """Checkpoints of one folder; a pickle is left out where the same weights are safetensors."""
  groups = {index.name.removesuffix(".index.json"): _shards(index)
            for index in sorted(folder.glob("*.index.json"))}
  sharded = {file for files in groups.values() for file in files}
  for file in sorted(folder.iterdir()):
    if file.is_file() and file.suffix in WEIGHT_SUFFIXES and file not in sharded:
      groups[file.name] = (file,)
  if any(name.endswith(".safetensors") for name in groups):
    for name in [name for name in groups if name == "pytorch_model.bin"]:
      logging.info("%s: %s is left out, the folder has safetensors.", folder, name)
      del groups[name]
  where = lambda name: str((folder / name).relative_to(root))
  return [Checkpoint(where(name), files, _config(folder)) for name, files in groups.items()]


def _shards(index: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """The files that an index names, relative to its folder."""
  try:
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(f"{index} is not an index of checkpoint parts ({type(error).__name__}: {error})."
                     "\nDownload it again.") from error
  outside = [name for name in names if pathlib.PurePath(name).name != name]
  if outside:
    raise InputError(f"{index} names {outside[0]}, which is outside of its folder.")
  return tuple(index.parent / name for name in names)


def _config(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / "config.json"
  if not path.is_file():
    return {}
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise InputError(f"{path} is not JSON ({error}).\nDownload it again, or remove it.") from error
  if not isinstance(content, dict):
    raise InputError(f"{path} holds a {type(content).__name__}, wanted an object.")
  return content


def _download(source: str) -> pathlib.Path:
  """The local snapshot of a hub repository, downloaded where it is not in the cache."""
  parts = HUB_ID.fullmatch(source)
  if not parts or source.endswith(WEIGHT_SUFFIXES) or source.startswith("."):
    raise InputError(f"{source} does not exist.\n"
                     "Give a file, a folder, or a Hugging Face id: owner/name[/folder][@revision].")
  import huggingface_hub
  from huggingface_hub import errors

  folder = (parts["folder"] or "").strip("/")
  wanted = [f"{folder}/{pattern}" if folder else pattern for pattern in HUB_FILES]
  try:
    snapshot = huggingface_hub.snapshot_download(
        parts["repo"], revision=parts["revision"], allow_patterns=wanted)
  except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.HFValidationError,
          OSError) as error:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
    raise InputError(f"{source} is neither a local path nor could it be downloaded from Hugging Face "
                     f"({reason}).\nCheck the name and the network, or give a local folder."
                     ) from error
  path = pathlib.Path(snapshot) / folder
  if not path.is_dir():
    raise InputError(f"{parts['repo']} has no folder {folder}.")
  return path
