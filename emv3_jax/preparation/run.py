"""Preparation of a manifest: one shard after the other, then the index."""

from collections.abc import Callable, Sequence
import dataclasses
import json
import pathlib

from absl import logging

from emv3_jax.conditioning import text as text_lib
from emv3_jax.data import index as index_lib
from emv3_jax.data import records
from emv3_jax.data.index import INDEX, SHARDS, Index
from emv3_jax.errors import InputError
from emv3_jax.faces import detect, track
from emv3_jax.io import atomic
from emv3_jax.io.digests import file_digest
from emv3_jax.preparation import encoding, shards
from emv3_jax.preparation.generated import ENCODERS
from emv3_jax.preparation.manifest import Clip
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.fingerprint import NUMERICS
from emv3_jax.sampling.model import Model
from emv3_jax.tasks import face_masks

SETTINGS, REJECTED = "settings.json", "rejected.jsonl"
_SPEED_ONLY = ("text_batch", "image_batch", "video_batch")


def prepare(model: Model, settings: PrepareConfig, clips: Sequence[Clip], folder: pathlib.Path,
            progress: Callable = iter) -> Index:
  """Prepares clips in `folder`; complete shards are kept.

  While shards are missing the folder has no index, so that it is not a dataset.

  Args:
    model: the encoders.
    settings: settings of the preparation.
    clips: from `read_manifest`.
    folder: output folder, created if missing.
    progress: wraps the numbers of the shards, e.g. a `tqdm`.

  Raises:
    InputError: no clip can be used; the folder cannot be written to, the disk is full, or it was
      prepared with other settings, other encoders or more clips.
  """
  groups = groups_of(clips, settings)
  missing = begin(model, settings, groups, folder)
  tokenizer = text_lib.Tokenizer.load(model.tokenizer_path)
  for number in progress(missing):
    shards.make_shard(model, tokenizer, settings, folder, number, groups[number])
  return finish(model, tokenizer, settings, groups, folder)


def groups_of(clips: Sequence[Clip], settings: PrepareConfig) -> list[Sequence[Clip]]:
  """Returns the clips of each shard."""
  return [clips[first:first + settings.shard_clips] for first in range(0, len(clips), settings.shard_clips)]


def begin(model: Model, settings: PrepareConfig, groups: Sequence[Sequence[Clip]], folder: pathlib.Path) -> list[int]:
  """Opens the folder and returns the numbers of the shards that have to be made.

  Raises:
    InputError: see `prepare`.
  """
  _open_folder(folder, _dataset_config(model, settings), len(groups))
  missing = [number for number, group in enumerate(groups) if shards.read_note(folder, number, group) is None]
  if missing:
    atomic.remove(folder / INDEX)
  if len(missing) < len(groups):
    logging.info("%d of %d shards are done already.", len(groups) - len(missing), len(groups))
  return missing


def finish(model: Model, tokenizer: text_lib.Tokenizer, settings: PrepareConfig, groups: Sequence[Sequence[Clip]],
           folder: pathlib.Path) -> Index:
  """Writes the index of shards that are complete.

  Raises:
    InputError: no clip can be used, or the folder cannot be written to.
  """
  notes = [shards.read_note(folder, number, group) for number, group in enumerate(groups)]
  missing = [number for number, note in enumerate(notes) if note is None]
  if missing:
    raise InputError(f"Shard {missing[0]} in {folder} is not complete: a file of its clips changed meanwhile; run the "
                     "command again.")
  return _write_index(model, tokenizer, settings, _dataset_config(model, settings),
                      [note for note in notes if note is not None], folder)


def _dataset_config(model: Model, settings: PrepareConfig) -> dict:
  """Collects all that records depend on besides the clips; can be written as JSON."""
  encoders = {name: {"config": dataclasses.asdict(getattr(model.config.model, name)),
                     "precision": dataclasses.asdict(getattr(model.config.precision, name)),
                     "digest": model.digest(name)} for name in ENCODERS}
  kept = {name: value for name, value in dataclasses.asdict(settings).items()
          if name not in _SPEED_ONLY}
  dataset_config = {"schema": records.SCHEMA, "version": _version(settings), "encoders": encoders,
              "conditions": index_lib.condition_fields(model.config.model.transformer),
              "settings": {**kept, "numerics": NUMERICS, "face_detector": model.config.face_detector or detect.IDENTITY,
                           "face_track": track.VERSION,
                           "tokenizer": file_digest(model.tokenizer_path)}}
  return json.loads(json.dumps(dataset_config))


def _version(settings: PrepareConfig) -> int:
  return records.MOVING if settings.face_mask == face_masks.MOVING else records.STILL


def _open_folder(folder: pathlib.Path, dataset_config: dict, groups: int) -> None:
  """Creates the folder, or checks that an earlier run in it can be continued."""
  try:
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"Output folder {folder} cannot be created: {error.strerror}; choose another "
                     "--out.") from error
  path = folder / SETTINGS
  if path.exists():
    try:
      found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
      raise InputError(f"{path} cannot be read: {error}; choose another --out.") from None
    if isinstance(found, dict) and isinstance(found.get("settings"), dict):
      found["settings"].setdefault("face_mask", face_masks.RELEASED)  # of a folder that does not name it
    faults = config_lib.differences(found, dataset_config)
    if faults:
      earlier = any(".digest: " in fault for fault in faults)
      raise InputError(f"{folder} was prepared with other settings (there != now): "
                       f"{'; '.join(faults[:4])}.\nChoose another --out, or use the same settings"
                       f"{' (a folder of version 0.1 cannot be continued)' if earlier else ''}"
                       ".")
  numbered = [note for note in (folder / SHARDS).glob("*.json") if note.stem.isdecimal()]
  beyond = [note for note in numbered if int(note.stem) >= groups]
  if beyond:
    raise InputError(f"{folder} holds shards of a longer manifest ({groups + len(beyond)} of them, "
                     f"this one makes {groups}); choose another --out.")
  for leftover in (folder / SHARDS).glob(".*.part.array_record"):  # by a run that was killed
    atomic.remove(leftover)
  atomic.write_json(path, dataset_config)


def _write_index(model: Model, tokenizer: text_lib.Tokenizer, settings: PrepareConfig, dataset_config: dict,
            notes: Sequence[shards.ShardNote], folder: pathlib.Path) -> Index:
  rejected = [entry for note in notes for entry in note.rejected]
  if rejected:
    with atomic.atomic_file(folder / REJECTED) as temporary:
      temporary.write_text("".join(f"{json.dumps(dataclasses.asdict(entry), ensure_ascii=False)}\n"
                                   for entry in rejected), encoding="utf-8")
  else:
    atomic.remove(folder / REJECTED)
  written = tuple(note.shard for note in notes if note.shard)
  if not written:
    raise InputError(f"No clip could be used; the first: {rejected[0].reason}\n"
                     f"{folder / REJECTED} has all reasons.")
  digests = sorted({digest for note in notes for digest in note.made_by})
  if len(digests) > 1:
    logging.warning("The clips come from different weights according to their reports: %s. Negatives of a "
                    "stage should come from the weights that it starts from.",
                    ", ".join(digest or "unknown" for digest in digests))
  empty = encoding.encode_texts(model, tokenizer, [""], 1)[""]
  index = Index(**dataset_config, records=sum(shard.records for shard in written),
                clips=sum(note.clips for note in notes), rejected=len(rejected),
                dtype=settings.dtype, stride=settings.step, buckets=settings.buckets, shards=written,
                made_by=", ".join(filter(None, digests)))
  index_lib.write_index(folder, index, empty)
  return index
