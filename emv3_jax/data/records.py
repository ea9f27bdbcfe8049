"""Records: one encoded window of a clip in an ArrayRecord file.

The bytes of a record are a safetensors file: arrays, and in its metadata the schema, the version and
strings. docs/data.md has the table of fields. Data that can be computed from the rest are not stored: the
overlapping audio windows of flash are made when records are collated.
"""

from collections.abc import Iterable
import dataclasses
import json
import math
import os
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float, UInt8, UInt16
import ml_dtypes
import numpy as np

from emv3_jax import geometry, tasks
from emv3_jax.errors import InputError
from emv3_jax.io.atomic import atomic_file
from emv3_jax.variants import Variant

SCHEMA = "emv3_jax.window"
STILL, MOVING = 2, 3  # versions with one face mask for all frames, and with the face's box in each frame
SUPPORTED_VERSIONS = (1, STILL, MOVING)  # records of version 1 name no task
DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16),
          "float32": np.dtype(np.float32)}

_STORED = {"F16": DTYPES["float16"], "BF16": DTYPES["bfloat16"], "F32": DTYPES["float32"],
           "U8": np.dtype(np.uint8), "U16": np.dtype(np.uint16)}
_NAMES = {dtype: name for name, dtype in _STORED.items()}
_INTEGERS_STORED = (_STORED["U8"], _STORED["U16"])
_STRINGS = ("id", "caption", "source", "task")
_INTEGERS = ("index", "start")
# One record per chunk, so that reading a record decodes nothing else.
_WRITER_OPTIONS = "group_size:1"


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
  """A window of F = 4 (f - 1) + 1 frames at 25 frames a second, of H = 8 h8 by W = 8 w8 pixels.

  Floating arrays have the dtype of the dataset on disk and are read as float32.

  Attributes:
    id: id of the clip, from the manifest.
    index: number of the window in its clip, from 0.
    start: first frame of the window in the clip, at 25 frames a second.
    caption: text that was encoded.
    source: sha256 of the clip's file.
    task: for a generated clip the name of the task that generated it; the record holds the conditions of
      that task and serves no other. Empty: the record serves all tasks.
    latents: normalised mean latents of the video.
    masked_latents: the same of the masked video of each of `tasks.precomputed()`; with a task, of its own
      masked video (n = 1), zeros for t2v.
    mouth_mask: 1 for latent cells that contain a part of the mouth; for losses.
    face_mask: 1 for tokens (2x2 cells) of the face, where the audio acts, the same in all frames; None with
      `face_box`.
    text: umT5 states of the caption without padding.
    image: CLIP states of the images of `tasks.ReferenceImage`; with a task, of its own image (k = 1).
    audio: features from `Variant.crop_features`: preview [2F, dim], flash [F + 4, layers, dim].
    lipsync_mask: 1 where lip-sync is given a cell, 0 where it inpaints it; None with a task.
    task_mask: with a task the network's mask channels, 1 where the video is given; else None.
    face_box: rows y1 to y2 and columns x1 to x2 (ends excluded) of tokens that the face covers in each frame;
      None with `face_mask`.
  """

  id: str
  index: int
  start: int
  caption: str
  source: str
  latents: Float[np.ndarray, "f h8 w8 16"]
  masked_latents: Float[np.ndarray, "n f h8 w8 16"]
  mouth_mask: UInt8[np.ndarray, "f h8 w8"]
  face_mask: UInt8[np.ndarray, "h w"] | None
  text: Float[np.ndarray, "m text_dim"]
  image: Float[np.ndarray, "k image_tokens image_dim"]
  audio: Float[np.ndarray, "..."]
  lipsync_mask: UInt8[np.ndarray, "f h8 w8"] | None = None
  task: str = ""
  task_mask: UInt8[np.ndarray, "f h8 w8 4"] | None = None
  face_box: UInt16[np.ndarray, "F 4"] | None = None

  @property
  def version(self) -> int:
    """Version of the schema that the record is written with."""
    return STILL if self.face_box is None else MOVING


def array_names(task: str, version: int) -> tuple[str, ...]:
  """Returns the names of the arrays of a record of a version for `task`; "" stands for all tasks."""
  return ("latents", "masked_latents", "task_mask" if task else "lipsync_mask", "mouth_mask",
          "face_box" if version == MOVING else "face_mask", "text", "image", "audio")


def encode(record: Record, dtype: str, variant: Variant) -> bytes:
  """Encodes a record to bytes.

  Args:
    record: a window.
    dtype: a name in DTYPES, for the floating arrays.
    variant: of the network that the record is for.

  Raises:
    InputError: a value is not finite in `dtype`.
    ValueError: shapes do not agree.
  """
  _check_shapes(record, variant, len(tasks.precomputed()))
  arrays = {name: np.asarray(getattr(record, name)) for name in array_names(record.task, record.version)}
  for name, array in arrays.items():
    if array.dtype not in _INTEGERS_STORED:
      with np.errstate(over="ignore"):
        arrays[name] = array.astype(DTYPES[dtype])
      if not np.isfinite(arrays[name].astype(np.float32)).all():
        raise InputError(f"Clip {record.id}, window {record.index}: {name} has values that are not "
                         f"finite in {dtype} (largest {np.abs(array).max():g}); set "
                         "--config.prepare.dtype=bfloat16 if they are only too large.")
  metadata = {name: str(getattr(record, name)) for name in _STRINGS + _INTEGERS}
  return _safetensors(arrays, {"schema": SCHEMA, "version": str(record.version), **metadata})


def decode(data: bytes, label: str = "record", variant: Variant | None = None) -> Record:
  """Decodes the bytes of a record, the inverse of `encode`; floating arrays become float32.

  Args:
    data: bytes of a record.
    label: name of the record in messages.
    variant: of the network that the record is for; with None the length of the audio is not checked.

  Raises:
    InputError: the bytes are not a record, are damaged, or have another schema or version.
  """
  try:
    record = _decode(data, label)
    _check_shapes(record, variant, min(len(record.masked_latents), len(tasks.precomputed())))
  except InputError:
    raise
  except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:  # of any JSON
    raise InputError(f"{label} is damaged: its header cannot be used ({type(error).__name__}: {error}).") from error
  return record


def _decode(data: bytes, label: str) -> Record:
  header, begin = _read_header(data, label)
  metadata = header.pop("__metadata__", {})
  found = metadata.get("schema"), metadata.get("version")
  if found not in [(SCHEMA, str(version)) for version in SUPPORTED_VERSIONS]:
    raise InputError(f"{label} has schema {found[0]} version {found[1]}; {supported()}")
  strings = {"task": "", **metadata}
  task, wanted = strings["task"], set(array_names(strings["task"], int(found[1])))
  if task and task not in tasks.names():
    raise InputError(f"{label} is for task {task!r}; known: {', '.join(tasks.names())}. Prepare the "
                     "clips again.")
  if set(header) != wanted:
    raise InputError(f"{label} holds {', '.join(sorted(header))}; expected "
                     f"{', '.join(sorted(wanted))}. Prepare the clips again.")
  fields: dict[str, Any] = {name: _read_array(data, begin, entry, f"{label}, {name}")
            for name, entry in header.items()}
  fields |= {name: str(strings[name]) for name in _STRINGS}
  fields |= {name: int(metadata[name]) for name in _INTEGERS}
  return Record(**{"face_mask": None, **fields})


def supported() -> str:
  """Returns the end of messages about another schema."""
  return (f"this release reads {SCHEMA} version {', '.join(map(str, SUPPORTED_VERSIONS))}. Prepare the "
          "clips again.")


def write_shard(path: str | os.PathLike, records: Iterable[bytes]) -> int:
  """Writes an ArrayRecord file atomically; `records` may be a generator.

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
  except RuntimeError as error:  # the library raises nothing else; its text names file and reason
    raise InputError(f"Cannot write {path}: {str(error).partition(';')[0]}.\n"
                     "No partial file was kept; free disk space or choose another folder."
                     ) from error


def _close_quietly(writer: ArrayRecordWriter) -> None:
  try:
    if writer.is_open():
      writer.close()
  except RuntimeError:
    pass  # another error is being raised


def _check_shapes(record: Record, variant: Variant | None, slots: int) -> None:
  """Raises ValueError if a record for all tasks does not have `slots` masked latents, or shapes disagree."""
  f, h8, w8, _ = record.latents.shape
  frames = geometry.frames_of(f)
  count = 1 if record.task else slots
  wanted = {"masked_latents": (count, *record.latents.shape), "mouth_mask": (f, h8, w8),
            "face_mask": geometry.grid_of_latents((h8, w8)), "face_box": (frames, 4), "lipsync_mask": (f, h8, w8),
            "task_mask": (f, h8, w8, geometry.FRAMES)}
  for name in array_names(record.task, record.version):
    shape = np.shape(getattr(record, name))
    if shape != wanted.get(name, shape):
      raise ValueError(f"{name} is {shape}, expected {wanted[name]}.")
  if record.face_box is not None:
    y1, y2, x1, x2 = record.face_box.T
    rows, columns = wanted["face_mask"]
    if not ((y1 < y2) & (y2 <= rows) & (x1 < x2) & (x2 <= columns)).all():
      raise ValueError(f"face_box has boxes that are empty or not within {rows} rows and {columns} columns of tokens.")
  if variant is not None and len(record.audio) != variant.stored_length(frames):
    raise ValueError(f"audio is {record.audio.shape} for {frames} frames of {variant.name}; expected "
                     f"{variant.stored_length(frames)} features.")


def _safetensors(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
  """Makes a safetensors file whose bytes are the same for equal records; the library orders metadata randomly."""
  header: dict[str, dict] = {"__metadata__": metadata}
  end = 0
  for name, array in arrays.items():
    begin, end = end, end + array.nbytes
    header[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": (begin, end)}
  text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  return b"".join([len(text).to_bytes(8, "little"), text,
                   *(array.tobytes() for array in arrays.values())])


def _read_header(data: bytes, label: str) -> tuple[dict, int]:
  """Returns the safetensors header and the offset of the arrays."""
  try:
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    if begin <= len(data) and isinstance(header, dict):
      return header, begin
  except (ValueError, RecursionError):
    pass
  raise InputError(f"{label} is not a record of {SCHEMA}, or it is damaged ({len(data)} bytes).")


def _read_array(data: bytes, begin: int, entry: dict, label: str) -> np.ndarray:
  dtype, shape = _STORED[entry["dtype"]], tuple(entry["shape"])
  first, end = entry["data_offsets"]
  if end - first != dtype.itemsize * math.prod(shape) or begin + end > len(data):
    raise InputError(f"{label} is damaged: {len(data) - begin} bytes of arrays.")
  array = np.frombuffer(data, dtype, math.prod(shape), begin + first).reshape(shape)
  return array if dtype in _INTEGERS_STORED else array.astype(np.float32)
