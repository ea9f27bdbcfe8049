"""Sources of weights: a file, a folder, or a repository of the Hugging Face hub."""

from collections.abc import Iterator
import dataclasses
import json
import pathlib
import re
from typing import Any

from emv3_jax.conditioning.text import TOKENIZER_FILES as TOKENIZERS
from emv3_jax.conditioning.text import tokenizer_file
from emv3_jax.errors import InputError

from .file_kinds import UNFINISHED_SUFFIXES, WEIGHT_SUFFIXES, ending

MAX_DEPTH = 3  # levels of folders below SOURCE that are searched
LISTED = 3  # files that a message lists
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?P<folder>/[\w./-]+)?(@(?P<revision>[\w./-]+))?")
HUB_FILES = (*(f"*{suffix}" for suffix in WEIGHT_SUFFIXES), "*.index.json", "*config.json",
             *(f"*{name}" for name in TOKENIZERS))
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
MAX_PARTS = 1000
TRAINING_FILES = re.compile(
    r"(optimizer|scheduler|scaler|sampler|training_args|rng_state|random_states)[\w.-]*"
    r"|\w*optim_states\.pt")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """The files of one checkpoint.

  Attributes:
    name: name in messages.
    files: its files.
    beside: content of the `config.json` beside them; {} if there is none.
    key: if not empty, only tensors whose names begin with it and a dot are used.
    problem: why the checkpoint cannot be read, if other files show it; else "".
  """

  name: str
  files: tuple[pathlib.Path, ...]
  beside: dict[str, Any]
  key: str = ""
  problem: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
  """Checkpoints and other files that were found in a source.

  Attributes:
    name: what the user gave.
    checkpoints: the checkpoints.
    tokenizers: paths of umT5's tokenizer.json or spiece.model.
    notes: lines about files that are not read.
  """

  name: str
  checkpoints: tuple[Checkpoint, ...]
  tokenizers: tuple[pathlib.Path, ...] = ()
  notes: tuple[str, ...] = ()

  @property
  def tokenizer(self) -> pathlib.Path | None:
    """Returns the file of the text encoder's tokenizer, None if there is none.

    Raises:
      InputError: there are several.
    """
    if len(self.tokenizers) > 1:
      raise InputError(f"{self.name} has several tokenizers: {', '.join(map(str, self.tokenizers))}.\n"
                       "Give the folder of the one that belongs to umT5.")
    return self.tokenizers[0] if self.tokenizers else None


def find(source: str, key: str = "") -> Source:
  """Looks for checkpoints in a file, a folder, or `owner/name[/folder][@revision]` on the hub.

  If only some checkpoints cannot be read, each of them gets a `problem`, which is reported when it is read.

  Args:
    source: file, folder, or id of a repository on the hub.
    key: `key` of every checkpoint.

  Raises:
    InputError: there is no such file or repository, or no weights in it.
  """
  if not source or "\0" in source:
    raise InputError(f"{source!r} is not a path.\nGive a file, a folder, or a Hugging Face id.")
  try:
    path = pathlib.Path(source).expanduser()
    if not path.exists() and not path.is_symlink():
      path = _download(source)
    found = _in_folder(source, path) if path.is_dir() else _one_file(source, path)
  except (OSError, RuntimeError) as error:  # a missing home folder is a RuntimeError
    reason = getattr(error, "strerror", None) or str(error)
    raise InputError(f"{source[:200]} cannot be read ({reason}).") from error
  return dataclasses.replace(found, checkpoints=tuple(
      dataclasses.replace(checkpoint, key=key) for checkpoint in found.checkpoints))


def _one_file(source: str, path: pathlib.Path) -> Source:
  if path.name in TOKENIZERS:
    return Source(source, (), (path,))
  if path.name.endswith(".index.json"):
    return Source(source, (_indexed(path, path.name),))
  return Source(source, (_checkpoint(path.name, _all_parts(path), path.parent),))


def _in_folder(source: str, path: pathlib.Path) -> Source:
  path = _snapshot(path)
  checkpoints, tokenizers, notes = [], [], []
  for folder in _folders(path):
    checkpoints += _checkpoints(folder, path, notes)
    if tokenizer_file(folder).is_file() and folder.name in ("umt5-xxl", "tokenizer"):
      tokenizers.append(tokenizer_file(folder))
  unfinished = [file.name for file in _unfinished(path)]
  names = ", ".join(unfinished[:LISTED]) + ", ..." * (len(unfinished) > LISTED)
  if unfinished:
    notes.append(f"warning: {path} has downloads that were not finished: {names}")
  if not checkpoints and not tokenizers:
    why = (f"its downloads were not finished: {names}.\nDownload it again." if unfinished else
           f"wanted files that end in {', '.join(WEIGHT_SUFFIXES)}.")
    raise InputError(f"{source} has no weights: {why}")
  return Source(source, tuple(checkpoints), tuple(tokenizers), tuple(notes))


def _snapshot(path: pathlib.Path) -> pathlib.Path:
  """Returns the snapshot of a repository if `path` is its folder in the hub's cache, else `path`."""
  if path.name.startswith("models--") and (path / "snapshots").is_dir():
    found = sorted(entry for entry in (path / "snapshots").iterdir() if entry.is_dir())
    main = path / "refs" / "main"
    if main.is_file() and path / "snapshots" / main.read_text().strip() in found:
      return path / "snapshots" / main.read_text().strip()
    if len(found) != 1:
      raise InputError(f"{path} has {len(found)} snapshots and no revision main among them.\n"
                       "Give the folder of one of them, or owner/name@revision.")
    return found[0]
  repositories = sorted(entry.name for entry in path.glob("models--*"))
  if repositories:
    names = ", ".join(repositories[:LISTED]) + ", ..." * (len(repositories) > LISTED)
    raise InputError(f"{path} is the hub's cache of {len(repositories)} repositories: {names}.\n"
                     "Give one of these folders, or owner/name.")
  return path


def _folders(folder: pathlib.Path, depth: int = 0, above: tuple = ()) -> Iterator[pathlib.Path]:
  """Yields `folder` and the folders below it, following links, but not links to a folder above."""
  yield folder
  above = (*above, folder.resolve())
  if depth < MAX_DEPTH:
    for below in sorted(folder.iterdir()):
      if below.is_dir() and not below.name.startswith(".") and below.resolve() not in above:
        yield from _folders(below, depth + 1, above)


def _unfinished(root: pathlib.Path) -> list[pathlib.Path]:
  """Finds unfinished downloads in the folders of `root` and in the cache of the hub's client."""
  hidden = [root / ".cache" / "huggingface" / "download"]
  if root.parent.name == "snapshots":
    hidden.append(root.parent.parent / "blobs")
  found = [file for cache in hidden for file in sorted(cache.rglob("*.incomplete"))]
  for folder in _folders(root):
    for file in sorted(folder.iterdir()):
      whole = file.with_suffix("")
      if (ending(file) in UNFINISHED_SUFFIXES and ending(whole) in WEIGHT_SUFFIXES
          and not whole.exists()):
        found.append(file)
  return found


def _checkpoints(folder: pathlib.Path, root: pathlib.Path, notes: list[str]) -> list[Checkpoint]:
  """Checkpoints of one folder; a pickle is skipped if the same weights exist as safetensors."""
  where = lambda name: str((folder / name).relative_to(root))
  found = {index.name.removesuffix(".index.json"): _indexed(index, where(index.name))
           for index in sorted(folder.glob("*.index.json")) if _is_ours(index)}
  taken = {file for checkpoint in found.values() for file in checkpoint.files}
  for file in sorted(folder.iterdir()):
    if file in taken or not _is_ours(file) or file.suffix == ".json":
      continue
    if TRAINING_FILES.fullmatch(file.name):
      notes.append(f"left out: {where(file.name)}: state of a training run, not weights")
      continue
    files = _all_parts(file)
    taken.update(files)
    part = PART.fullmatch(file.name)
    name = f"{part['stem']}{file.suffix}" if part and len(files) > 1 else file.name
    if name not in found:  # parts that the index does not name belong to an older download
      found[name] = _checkpoint(where(file.name), files, folder)
  for name in list(found):
    plain, others = name.lower(), {other.lower() for other in found}
    if plain.endswith(".bin") and (f"{plain.removesuffix('.bin')}.safetensors" in others or
                                   plain == "pytorch_model.bin" and any(
                                       other.endswith(".safetensors") for other in others)):
      notes.append(f"left out: {where(name)}: the folder has safetensors")
      del found[name]
  return [dataclasses.replace(checkpoint, name=where(name)) for name, checkpoint in found.items()]


def _is_ours(file: pathlib.Path) -> bool:
  """Returns whether a file, or a broken link, has the name of weights or of their index."""
  name = pathlib.PurePath(file.name.removesuffix(".index.json"))
  return not name.name.startswith(".") and ending(name) in WEIGHT_SUFFIXES and not file.is_dir()


def _all_parts(file: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """Returns the file, or all parts of the checkpoint if its name is that of one part of several."""
  part = PART.fullmatch(file.name)
  if not part or not 0 < int(part["count"]) <= MAX_PARTS:
    return (file,)
  return tuple(file.with_name(f"{part['stem']}-{number:05}-of-{part['count']}{part['suffix']}")
               for number in range(1, int(part["count"]) + 1))


def _indexed(index: pathlib.Path, name: str) -> Checkpoint:
  """Returns the checkpoint whose parts are named in an index file, relative to its folder."""
  try:
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    outside = [part for part in names if pathlib.PurePath(part).name != part]
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    reason = f"{type(error).__name__}: {str(error)[:150]}"
    return Checkpoint(name, (), {}, problem=f"{index} is not an index of checkpoint parts ({reason})."
                      "\nDownload it again.")
  if outside or not names:
    what = f"names {outside[0][:100]!r}, which is outside of its folder" if outside else "names no parts"
    return Checkpoint(name, (), {}, problem=f"{index} {what}.\nDownload it again.")
  return _checkpoint(name, tuple(index.parent / part for part in names), index.parent)


def _checkpoint(name: str, files: tuple[pathlib.Path, ...], folder: pathlib.Path) -> Checkpoint:
  path = folder / "config.json"
  if not path.is_file():
    return Checkpoint(name, files, {})
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:
    return Checkpoint(name, files, {}, problem=f"{path} is not JSON ({str(error)[:150]}).\n"
                      "Download it again, or remove it.")
  if not isinstance(content, dict):
    return Checkpoint(name, files, {}, problem=f"{path} holds a {type(content).__name__}, wanted an "
                      "object.\nDownload it again, or remove it.")
  return Checkpoint(name, files, content)


def _download(source: str) -> pathlib.Path:
  """Returns the local snapshot of a hub repository, downloaded if it is not in the cache."""
  parts = HUB_ID.fullmatch(source)
  if not parts or source.lower().endswith(WEIGHT_SUFFIXES) or source.startswith("."):
    raise InputError(f"{source[:200]} does not exist.\n"
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
