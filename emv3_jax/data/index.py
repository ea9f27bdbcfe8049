"""The index of a dataset: contents of its shards, and the encoders that made them.

    DIR/index.json               this, written last
    DIR/empty_text.safetensors   umT5 states of the empty string
    DIR/shards/00000.array_record, ...
    DIR/rejected.jsonl           clips and windows that could not be used, with the reasons
"""

import dataclasses
import json
import os
import pathlib

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy before safetensors reads it
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from emv3_jax import geometry, variants
from emv3_jax.data import records
from emv3_jax.errors import InputError
from emv3_jax.io.atomic import atomic_file, write_json
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime.command_names import as_called

INDEX, EMPTY_TEXT, SHARDS = "index.json", "empty_text.safetensors", "shards"
# The fields of the transformer's config that records of all variants depend on.
CONDITION_FIELDS = ("variant", "text_dim", "text_tokens", "image_dim", "image_tokens", "audio_dim")


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
  """A size of windows: F frames of H x W pixels."""

  frames: int
  height: int
  width: int

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """Shape of the latents, (f, h8, w8)."""
    return geometry.latent_frames(self.frames), *geometry.latent_size((self.height, self.width))


@dataclasses.dataclass(frozen=True)
class Shard:
  """One ArrayRecord file.

  Attributes:
    file: path in the dataset's folder.
    bytes: size of the file.
    runs: (number of the bucket, number of its records), in the order of the file.
  """

  file: str
  bytes: int
  runs: tuple[tuple[int, int], ...]

  @property
  def records(self) -> int:
    return sum(count for _, count in self.runs)


@dataclasses.dataclass(frozen=True)
class Index:
  """The index of a dataset. Records are numbered from 0 over all shards (global record index).

  An index of version 1 can be read too; its records name no task.

  Attributes:
    schema, version: schema of the records.
    records: number of records.
    clips, rejected: number of clips with a record, and of entries in rejected.jsonl.
    dtype: dtype of the floating arrays on disk.
    stride: frames from the start of a window to the start of the next one.
    buckets: sizes, by number.
    conditions: CONDITION_FIELDS of the transformer that the records are for.
    encoders: for each encoder its config, precision, and the digest of its parameters.
    settings: all settings of the preparation.
    shards: the files.
    made_by: for generated clips, the digest of the transformer's weights according to their reports;
      several digests are sorted and joined by commas; empty if there is none.
  """

  schema: str
  version: int
  records: int
  clips: int
  rejected: int
  dtype: str
  stride: int
  buckets: tuple[Bucket, ...]
  conditions: dict
  encoders: dict
  settings: dict
  shards: tuple[Shard, ...]
  made_by: str = ""

  def bucket_numbers(self) -> np.ndarray:
    """Returns the bucket of each record, int32 [records]."""
    runs = [run for shard in self.shards for run in shard.runs]
    numbers, counts = np.array(runs, np.int32).reshape(-1, 2).T
    return np.repeat(numbers, counts)


def write_index(folder: str | os.PathLike, index: Index, empty_text: np.ndarray) -> None:
  """Writes the empty text [m, text_dim], then the index.

  Raises:
    InputError: the folder cannot be written to.
  """
  folder = pathlib.Path(folder)
  with atomic_file(folder / EMPTY_TEXT) as temporary:
    temporary.write_bytes(save({"empty_text": np.ascontiguousarray(empty_text, np.float32)}))
  write_json(folder / INDEX, dataclasses.asdict(index))


def read_index(folder: str | os.PathLike) -> Index:
  """Reads the index and checks that every shard exists.

  Raises:
    InputError: the folder holds no dataset, the schema or version is not supported, or a shard is missing
      or has another size.
  """
  folder = pathlib.Path(folder)
  values = _read_json(folder)
  found = values.get("schema"), values.get("version")
  if found not in [(records.SCHEMA, version) for version in records.SUPPORTED_VERSIONS]:
    raise InputError(f"Dataset {folder} has schema {found[0]} version {found[1]}; "
                     f"{records.supported()}")
  index = config_lib.build(Index, values, str(folder / INDEX))
  for shard in index.shards:
    _check_shard(folder / shard.file, shard)
  counted = sum(shard.records for shard in index.shards)
  if counted != index.records or not counted:
    raise InputError(f"{folder / INDEX} counts {index.records} records, its shards {counted}; "
                     "prepare the clips again.")
  return index


def read_empty_text(folder: str | os.PathLike) -> np.ndarray:
  """Reads the umT5 states of the empty string, float32 [m, text_dim].

  Raises:
    InputError: the file is missing or damaged.
  """
  path = pathlib.Path(folder) / EMPTY_TEXT
  try:
    with safe_open(path, "np") as content:
      return content.get_tensor("empty_text")
  except (OSError, SafetensorError) as error:
    raise InputError(f"{path} cannot be read ({error}); prepare the clips again.") from None


def condition_fields(config: TransformerConfig) -> dict:
  """Returns the fields of a transformer's config that records depend on."""
  return variants.of(config.variant).condition_values(config, CONDITION_FIELDS)


def check_conditions(folder: str | os.PathLike, index: Index, config: TransformerConfig) -> None:
  """Checks that the records are for a transformer with this config.

  Raises:
    InputError: they are not; the message names the fields that differ.
  """
  faults = config_lib.differences(index.conditions, condition_fields(config))
  if faults:
    raise InputError(f"Dataset {folder} was prepared for another model (dataset != config): "
                     f"{'; '.join(faults)}. Prepare the clips with this model's config.")


def _read_json(folder: pathlib.Path) -> dict:
  path = folder / INDEX
  try:
    values = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise InputError(f"{folder} is not a dataset: it has no {INDEX}. Make or complete it with "
                     f"{as_called('emv3-prepare')} --out={folder}.") from None
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(f"{path} cannot be read: {error}.") from None
  if not isinstance(values, dict):
    raise InputError(f"{path} holds no JSON object; prepare the clips again.")
  return values


def _check_shard(path: pathlib.Path, shard: Shard) -> None:
  try:
    size = path.stat().st_size
  except OSError as error:
    raise InputError(f"Shard {path} is missing ({error.strerror}); copy the dataset again, or "
                     "prepare it again: whole shards are kept.") from None
  if size != shard.bytes:
    raise InputError(f"Shard {path} has {size} bytes, the index says {shard.bytes}; copy the dataset "
                     "again, or prepare it again: whole shards are kept.")
