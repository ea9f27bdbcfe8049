"""Shards: some clips of the manifest, encoded and written to one file.

Each shard has a note, DIR/shards/00000.json, that is written last: if it exists and its digest is that of
the same clips, the shard is complete and is not written again.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import itertools
import json
import pathlib
import time

from absl import logging
import numpy as np

from emv3_jax import geometry, variants
from emv3_jax.conditioning import text as text_lib
from emv3_jax.data import records
from emv3_jax.data.index import SHARDS, Shard
from emv3_jax.data.records import Record
from emv3_jax.errors import InputError
from emv3_jax.io import atomic
from emv3_jax.preparation import encoding
from emv3_jax.preparation import generated as generated_lib
from emv3_jax.preparation.footage import Footage, Window, read_footage, stream_windows
from emv3_jax.preparation.generated import GeneratedClip
from emv3_jax.preparation.manifest import Clip, Rejection
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.model import Model
from emv3_jax.tasks import face_masks, masks
from emv3_jax.variants import Variant

Usable = Footage | GeneratedClip


@dataclasses.dataclass(frozen=True)
class ShardNote:
  """The note of a complete shard.

  Attributes:
    clips_digest: digest of the lines of the manifest and of the sizes and times of their files.
    shard: entry of the index; None if no clip could be used.
    clips: number of clips with a record.
    rejected: clips and windows that could not be used.
    made_by: digests of the weights that generated the clips, sorted; "" stands for unknown.
  """

  clips_digest: str
  shard: Shard | None
  clips: int
  rejected: tuple[Rejection, ...]
  made_by: tuple[str, ...] = ()


def read_note(folder: pathlib.Path, number: int, clips: Sequence[Clip]) -> ShardNote | None:
  """Reads the note of shard `number`; returns None if the shard is incomplete or not of these clips."""
  try:
    values = json.loads(_note_path(folder, number).read_text(encoding="utf-8"))
    note = config_lib.build(ShardNote, values)
    complete = note.shard is None or (folder / note.shard.file).stat().st_size == note.shard.bytes
  except (OSError, ValueError, RecursionError):
    return None
  return note if complete and note.clips_digest == clips_digest(clips) else None


def make_shard(model: Model, tokenizer: text_lib.Tokenizer, settings: PrepareConfig,
               folder: pathlib.Path, number: int, clips: Sequence[Clip]) -> ShardNote:
  """Encodes clips and writes their shard and its note.

  One encoder after the other is in memory. Pictures are read twice: once for checks and face detection,
  once, window by window, for the VAE.

  Raises:
    InputError: the folder cannot be written to, or the disk is full.
  """
  begin, digest = time.monotonic(), clips_digest(clips)
  usable, rejected = _read_clips(model, settings, clips)
  file = f"{SHARDS}/{number:05d}.array_record"
  atomic.remove(_note_path(folder, number))
  shard = None
  if usable:
    runs: dict[int, int] = {}
    records.write_shard(folder / file, _encoded(model, tokenizer, settings, usable, runs))
    shard = Shard(file, (folder / file).stat().st_size, tuple(runs.items()))
  makers = {clip.transformer for clip in usable if isinstance(clip, GeneratedClip)}
  note = ShardNote(digest, shard, len(usable), tuple(rejected), tuple(sorted(makers)))
  atomic.write_json(_note_path(folder, number), dataclasses.asdict(note))
  logging.info("Shard %d: %d windows of %d clips, %d rejected, %.1f s.", number,
               shard.records if shard else 0, len(usable), len(rejected), time.monotonic() - begin)
  return note


def clips_digest(clips: Sequence[Clip]) -> str:
  """Computes a digest of clips from their lines and the sizes and times of their files."""
  entries = []
  for clip in clips:
    if clip.report is None:
      boxes = (clip.face_box, clip.mouth_box)
      paths = [clip.video, *(pathlib.Path(box) for box in boxes if box.endswith((".npy", ".json")))]
    else:
      paths = generated_lib.files_of(clip)
    stats = [path.stat() if path.is_file() else None for path in paths]
    entries.append((repr(clip), [stat and (stat.st_size, stat.st_mtime_ns) for stat in stats]))
  return hashlib.sha256(repr(entries).encode()).hexdigest()


def _note_path(folder: pathlib.Path, number: int) -> pathlib.Path:
  return folder / SHARDS / f"{number:05d}.json"


def _read_clips(model: Model, settings: PrepareConfig, clips: Sequence[Clip]
            ) -> tuple[list[Usable], list[Rejection]]:
  """Reads clips; returns those that can be used, ordered by bucket, and the rejections."""
  usable, rejected = [], []
  for clip in clips:
    try:
      if clip.report is not None:
        usable.append(generated_lib.read_generated(clip, settings, model))
        continue
      usable.append(read_footage(clip, settings, model.config.face_detector or None))
      rejected += usable[-1].rejected
    except InputError as error:
      rejected.append(Rejection(clip.line, clip.id, str(clip.video), None, str(error)))
  for entry in rejected:
    label = f"Clip {entry.id}" + ("" if entry.window is None else f", window {entry.window}")
    logging.warning("%s (line or entry %d) rejected: %s", label, entry.line, entry.reason)
  return sorted(usable, key=lambda clip: settings.sizes.index(clip.size)), rejected


def _encoded(model: Model, tokenizer: text_lib.Tokenizer, settings: PrepareConfig,
             usable: Sequence[Usable], runs: dict[int, int]) -> Iterator[bytes]:
  """Yields the bytes of the records in order; counts records by bucket in `runs`."""
  texts = encoding.encode_texts(model, tokenizer, (clip.clip.prompt for clip in usable),
                                settings.text_batch)
  variant = _variant(model)
  states = _states(model, settings, usable)
  for bucket, size in enumerate(settings.sizes):
    same = [clip for clip in usable if clip.size == size]
    for kind, clips in itertools.groupby(same, key=type):
      if kind is GeneratedClip:
        made = _generated_records(model, settings, [clip for clip in clips if isinstance(clip, GeneratedClip)],
                             texts, states)
      else:
        made = _window_records(model, settings, [clip for clip in clips if isinstance(clip, Footage)],
                               texts, states)
      for record in made:
        yield records.encode(record, settings.dtype, variant)
        runs[bucket] = runs.get(bucket, 0) + 1


def _states(model: Model, settings: PrepareConfig, usable: Sequence[Usable]) -> dict:
  """Encodes image and audio of each window of footage and of each generated clip."""
  footage = [clip for clip in usable if isinstance(clip, Footage)]
  made = [clip for clip in usable if isinstance(clip, GeneratedClip)]
  states = {}
  if footage:
    windows = [window for clip in footage for window in clip.windows]
    images = encoding.encode_images(model, windows, settings.image_batch)
    sounds = encoding.encode_sounds(model, footage, settings)
    states |= dict(zip(windows, zip(images, sounds, strict=True), strict=True))
  if made:
    states |= dict(zip(made, generated_lib.encode_states(model, made), strict=True))
  return states


def _window_records(model: Model, settings: PrepareConfig, footage: Sequence[Footage], texts: dict,
                    states: dict) -> Iterator[Record]:
  clip_of = {window: clip for clip in footage for window in clip.windows}
  stream = (pair for clip in footage for pair in stream_windows(clip, settings))
  for window, latents in encoding.encode_videos(model, stream, settings.video_batch):
    clip = clip_of[window]
    yield _record(clip, window, settings, latents, texts[clip.clip.prompt], *states[window])


def _generated_records(model: Model, settings: PrepareConfig, clips: Sequence[GeneratedClip], texts: dict,
                  states: dict) -> Iterator[Record]:
  pictures = generated_lib.encode_pictures(model, clips, settings.frames)
  for clip, (latents, condition) in zip(clips, pictures, strict=True):
    image, audio = states[clip]
    yield generated_lib.make_record(clip, settings, latents, condition, texts[clip.clip.prompt],
                               image, audio, _variant(model))


def _variant(model: Model) -> Variant:
  return variants.of(model.config.model.transformer.variant)


def _record(clip: Footage, window: Window, settings: PrepareConfig, latents: np.ndarray,
            text: np.ndarray, image: np.ndarray, audio: np.ndarray) -> Record:
  cells = lambda region: masks.mask_latents(
      masks.outside_mouth(region, settings.frames), clip.framing.size)[..., 0].astype(np.uint8)
  tokens, moves = window.face_tokens, settings.face_mask == face_masks.MOVING
  grid = geometry.token_grid(clip.framing.size)
  return Record(
      id=clip.clip.id, index=window.index, start=window.start, caption=clip.clip.prompt,
      source=clip.digest, latents=latents[0], masked_latents=latents[1:],
      lipsync_mask=cells(window.inpainted), mouth_mask=1 - cells(window.mouth),
      face_mask=None if moves else face_masks.covered(tokens, grid)[0].astype(np.uint8),
      face_box=np.broadcast_to(tokens, (settings.frames, 4)) if moves else None,
      text=text, image=image, audio=audio)
