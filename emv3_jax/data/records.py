"""One window of a clip on disk, everything encoded: a record of an ArrayRecord file.

A record's bytes are a safetensors file: the arrays, and in its metadata schema, version and strings.
docs/data.md has the table of fields. What can be had from the rest is not stored twice: flash's
audio windows overlap and are made when records become a batch.
"""

from collections.abc import Iterable
import dataclasses
import json
import math
import os

from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float, UInt8
import ml_dtypes
import numpy as np

from emv3_jax import geometry, tasks
from emv3_jax.errors import InputError
from emv3_jax.io.atomic import atomic_file
from emv3_jax.variants import Variant

SCHEMA, VERSION = "emv3_jax.window", 2
READABLE = (1, 2)  # versions; records of version 1 name no task
DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16),
          "float32": np.dtype(np.float32)}

_STORED = {"F16": DTYPES["float16"], "BF16": DTYPES["bfloat16"], "F32": DTYPES["float32"],
           "U8": np.dtype(np.uint8)}
_NAMES = {dtype: name for name, dtype in _STORED.items()}
_STRINGS = ("id", "caption", "source", "task")
_INTEGERS = ("index", "start")
# One record a chunk, so that reading one decodes nothing else.
_WRITER_OPTIONS = "group_size:1"


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
  """A window of F = 4 (f - 1) + 1 frames at 25 a second, H = 8 h8 and W = 8 w8 pixels large.

  Floating arrays have the dtype of the dataset in a file and are float32 when read.

  Attributes:
    id: of the clip, from the manifest.
    index: number of the window in its clip, from 0.
    start: its first frame in the clip, at 25 frames a second.
    caption: what was encoded as text.
    source: sha256 of the clip's file.
    task: the only task that the record is for, by its name, for a clip that the
      model made: its conditions are those that it was made under. Empty: any task.
    latents: the VAE's normalised mean of the video.
    masked_latents: likewise of what each of `tasks.precomputed()` knows of it, the rest mid grey; with a
      task, of what was known (n = 1), zeros for t2v.
    mouth_mask: 1 where a cell holds a part of the mouth; for losses.
    face_mask: 1 for tokens (2x2 cells) of the face, where the audio acts.
    text: umT5 states of the caption without padding.
    image: CLIP states of the pictures of `tasks.ReferenceImage`; with a task, those that it was given
      (k = 1).
    audio: features as `Variant.crop_features` leaves them: preview [2F, dim], flash [F + 4, layers, dim].
    lipsync_mask: 1 where lip-sync knows a cell, 0 where it draws it anew; None with a task.
    task_mask: with a task, the network's mask channels: 1 where known; else None.
  """

  id: str
  index: int
  start: int
  caption: str
  source: str
  latents: Float[np.ndarray, "f h8 w8 16"]
  masked_latents: Float[np.ndarray, "n f h8 w8 16"]
  mouth_mask: UInt8[np.ndarray, "f h8 w8"]
  face_mask: UInt8[np.ndarray, "h w"]
  text: Float[np.ndarray, "m text_dim"]
  image: Float[np.ndarray, "k image_tokens image_dim"]
  audio: Float[np.ndarray, "..."]
  lipsync_mask: UInt8[np.ndarray, "f h8 w8"] | None = None
  task: str = ""
  task_mask: UInt8[np.ndarray, "f h8 w8 4"] | None = None


def array_names(task: str) -> tuple[str, ...]:
  """Names of the arrays of a record for `task`, or for any task ("")."""
  return ("latents", "masked_latents", "task_mask" if task else "lipsync_mask", "mouth_mask",
          "face_mask", "text", "image", "audio")


def encode(record: Record, dtype: str, variant: Variant) -> bytes:
  """The bytes of a record.

  Args:
    record: of a window.
    dtype: a name of DTYPES, for the floating arrays.
    variant: of the network that the record is for.

  Raises:
    InputError: a value that is not finite in `dtype`.
    ValueError: shapes that do not belong together.
  """
  _check_shapes(record, variant, len(tasks.precomputed()))
  arrays = {name: np.asarray(getattr(record, name)) for name in array_names(record.task)}
  for name, array in arrays.items():
    if array.dtype != np.uint8:
      with np.errstate(over="ignore"):
        arrays[name] = array.astype(DTYPES[dtype])
      if not np.isfinite(arrays[name].astype(np.float32)).all():
        raise InputError(f"Clip {record.id}, window {record.index}: {name} has values that are not "
                         f"finite in {dtype} (largest {np.abs(array).max():g}); set "
                         "--config.prepare.dtype=bfloat16 if they are only too large.")
  metadata = {name: str(getattr(record, name)) for name in _STRINGS + _INTEGERS}
  return _safetensors(arrays, {"schema": SCHEMA, "version": str(VERSION), **metadata})


def decode(data: bytes, where: str = "record", variant: Variant | None = None) -> Record:
  """The inverse of `encode`; floating arrays come back as float32.

  Args:
    data: a record's bytes.
    where: what messages call the record.
    variant: of the network that it is for; None: the length of the audio is not checked.

  Raises:
    InputError: the bytes are no record, are damaged, or are of another schema or version.
  """
  try:
    record = _decode(data, where)
    _check_shapes(record, variant, min(len(record.masked_latents), len(tasks.precomputed())))
  except InputError:
    raise
  except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:  # of any JSON
    raise InputError(f"{where} is damaged: its header cannot be used ({type(error).__name__}: {error}).") from error
  return record


def _decode(data: bytes, where: str) -> Record:
  header, begin = _read_header(data, where)
  metadata = header.pop("__metadata__", {})
  found = metadata.get("schema"), metadata.get("version")
  if found not in [(SCHEMA, str(version)) for version in READABLE]:
    raise InputError(f"{where} has schema {found[0]} version {found[1]}; {readable()}")
  strings = {"task": "", **metadata}
  task, wanted = strings["task"], set(array_names(strings["task"]))
  if task and task not in tasks.names():
    raise InputError(f"{where} is for task {task!r}; known: {', '.join(tasks.names())}. Prepare the "
                     "clips again.")
  if set(header) != wanted:
    raise InputError(f"{where} holds {', '.join(sorted(header))}; expected "
                     f"{', '.join(sorted(wanted))}. Prepare the clips again.")
  arrays = {name: _read_array(data, begin, entry, f"{where}, {name}")
            for name, entry in header.items()}
  return Record(**{name: str(strings[name]) for name in _STRINGS},
                **{name: int(metadata[name]) for name in _INTEGERS}, **arrays)


def readable() -> str:
  """The end of messages about another schema."""
  return (f"this release reads {SCHEMA} version {' and '.join(map(str, READABLE))}. Prepare the "
          "clips again.")


def write_shard(path: str | os.PathLike, records: Iterable[bytes]) -> int:
  """Writes an ArrayRecord file, whole or not at all; `records` may be made as they are written.

  Returns:
    The number of records.

  Raises:
    InputError: the folder is missing or not writable, or the disk is full.
  """
  count = 0
  with atomic_file(path) as temporary:
    writer = ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
    try:
      for data in records:
        _on_disk(path, writer.write, data)
        count += 1
      _on_disk(path, writer.close)
    except BaseException:
      _close_quietly(writer)
      raise
  return count


def _on_disk(path, call, *arguments) -> None:
  try:
    call(*arguments)
  except RuntimeError as error:  # all that the library raises; its text names file and reason
    raise InputError(f"Cannot write {path}: {str(error).partition(';')[0]}.\n"
                     "Nothing half-written was kept; free the disk or choose another folder."
                     ) from error


def _close_quietly(writer: ArrayRecordWriter) -> None:
  try:
    if writer.is_open():
      writer.close()
  except RuntimeError:
    pass  # another error is on its way


def _check_shapes(record: Record, variant: Variant | None, slots: int) -> None:
  """Raises ValueError where a record for all tasks has not `slots` masked latents, or shapes do not agree."""
  f, h8, w8, _ = record.latents.shape
  frames = geometry.frames_of(f)
  kinds = 1 if record.task else slots
  wanted = {"masked_latents": (kinds, *record.latents.shape), "mouth_mask": (f, h8, w8),
            "face_mask": geometry.grid_of_latents((h8, w8)), "lipsync_mask": (f, h8, w8),
            "task_mask": (f, h8, w8, geometry.FRAMES)}
  for name in array_names(record.task):
    shape = np.shape(getattr(record, name))
    if shape != wanted.get(name, shape):
      raise ValueError(f"{name} is {shape}, expected {wanted[name]}.")
  if variant is not None and len(record.audio) != variant.stored_length(frames):
    raise ValueError(f"audio is {record.audio.shape} for {frames} frames of {variant.name}; expected "
                     f"{variant.stored_length(frames)} features.")


def _safetensors(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
  """A safetensors file. The library puts metadata in random order; here equal records are equal
  bytes."""
  header, end = {"__metadata__": metadata}, 0
  for name, array in arrays.items():
    begin, end = end, end + array.nbytes
    header[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": (begin, end)}
  text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  return b"".join([len(text).to_bytes(8, "little"), text,
                   *(array.tobytes() for array in arrays.values())])


def _read_header(data: bytes, where: str) -> tuple[dict, int]:
  """The safetensors header and where the arrays begin."""
  try:
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    if begin <= len(data) and isinstance(header, dict):
      return header, begin
  except (ValueError, RecursionError):
    pass
  raise InputError(f"{where} is no record of {SCHEMA}, or it is damaged ({len(data)} bytes).")


def _read_array(data: bytes, begin: int, entry: dict, where: str) -> np.ndarray:
  dtype, shape = _STORED[entry["dtype"]], tuple(entry["shape"])
  first, end = entry["data_offsets"]
  if end - first != dtype.itemsize * math.prod(shape) or begin + end > len(data):
    raise InputError(f"{where} is damaged: {len(data) - begin} bytes of arrays.")
  array = np.frombuffer(data, dtype, math.prod(shape), begin + first).reshape(shape)
  return array if dtype == np.uint8 else array.astype(np.float32)
