"""One shard: some clips of the manifest, encoded and written. A shard that is done is not done again.

Beside a shard's file lies a note, DIR/shards/00000.json, that is written last: where it is and tells of
the same clips, the shard is whole.
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

from emv3_jax import variants
from emv3_jax.conditioning import text as text_lib
from emv3_jax.data import records
from emv3_jax.data.index import SHARDS, Shard
from emv3_jax.data.records import Record
from emv3_jax.errors import InputError
from emv3_jax.io import atomic
from emv3_jax.preparation import encoding
from emv3_jax.preparation import made as made_lib
from emv3_jax.preparation.footage import Footage, Window, read_footage, stream_windows
from emv3_jax.preparation.made import MadeClip
from emv3_jax.preparation.manifest import Clip, Rejection
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.model import Model
from emv3_jax.tasks import masks
from emv3_jax.variants import Variant

Usable = Footage | MadeClip


@dataclasses.dataclass(frozen=True)
class Note:
  """What is kept about a finished shard.

  Attributes:
    clips_digest: of the lines of the manifest, and of their files' sizes and times.
    shard: for the index; None where no clip could be used.
    clips: clips with a record.
    rejected: clips and windows that could not be used.
    made_by: digests of the weights that made clips with a report, sorted; "" stands for unknown.
  """

  clips_digest: str
  shard: Shard | None
  clips: int
  rejected: tuple[Rejection, ...]
  made_by: tuple[str, ...] = ()


def finished(folder: pathlib.Path, number: int, clips: Sequence[Clip]) -> Note | None:
  """The note of shard `number` where it is whole and made of these clips."""
  try:
    values = json.loads(_note_path(folder, number).read_text(encoding="utf-8"))
    note = config_lib.build(Note, values)
    whole = note.shard is None or (folder / note.shard.file).stat().st_size == note.shard.bytes
  except (OSError, ValueError, RecursionError):
    return None
  return note if whole and note.clips_digest == clips_digest(clips) else None


def make_shard(model: Model, tokenizer: text_lib.Tokenizer, settings: PrepareConfig,
               folder: pathlib.Path, number: int, clips: Sequence[Clip]) -> Note:
  """Encodes clips and writes their shard and its note.

  Encoders take their turns, so that one is in memory at a time. Pictures are read twice: once for
  what is in them, once, a window at a time, for the VAE.

  Raises:
    InputError: the folder cannot be written to, or the disk is full.
  """
  begin, digest = time.monotonic(), clips_digest(clips)
  usable, rejected = _usable(model, settings, clips)
  file = f"{SHARDS}/{number:05d}.array_record"
  atomic.remove(_note_path(folder, number))
  shard = None
  if usable:
    runs: dict[int, int] = {}
    records.write_shard(folder / file, _encoded(model, tokenizer, settings, usable, runs))
    shard = Shard(file, (folder / file).stat().st_size, tuple(runs.items()))
  makers = {clip.transformer for clip in usable if isinstance(clip, MadeClip)}
  note = Note(digest, shard, len(usable), tuple(rejected), tuple(sorted(makers)))
  atomic.write_json(_note_path(folder, number), dataclasses.asdict(note))
  logging.info("Shard %d: %d windows of %d clips, %d rejected, %.1f s.", number,
               shard.records if shard else 0, len(usable), len(rejected), time.monotonic() - begin)
  return note


def clips_digest(clips: Sequence[Clip]) -> str:
  """Identifies clips by their lines and by the size and time of their files."""
  told = []
  for clip in clips:
    if clip.report is None:
      paths = [clip.video] + [pathlib.Path(clip.face_box)] * clip.face_box.endswith(".npy")
    else:
      paths = made_lib.files_of(clip)
    stats = [path.stat() if path.is_file() else None for path in paths]
    told.append((repr(clip), [stat and (stat.st_size, stat.st_mtime_ns) for stat in stats]))
  return hashlib.sha256(repr(told).encode()).hexdigest()


def _note_path(folder: pathlib.Path, number: int) -> pathlib.Path:
  return folder / SHARDS / f"{number:05d}.json"


def _usable(model: Model, settings: PrepareConfig, clips: Sequence[Clip]
            ) -> tuple[list[Usable], list[Rejection]]:
  """Clips that can be used, ordered by bucket, and what cannot."""
  usable, rejected = [], []
  for clip in clips:
    try:
      if clip.report is not None:
        usable.append(made_lib.read_made(clip, settings, model))
        continue
      usable.append(read_footage(clip, settings, model.config.face_detector or None))
      rejected += usable[-1].rejected
    except InputError as error:
      rejected.append(Rejection(clip.line, clip.id, str(clip.video), None, str(error)))
  for entry in rejected:
    where = f"Clip {entry.id}" + ("" if entry.window is None else f", window {entry.window}")
    logging.warning("%s (line %d) rejected: %s", where, entry.line, entry.reason)
  return sorted(usable, key=lambda clip: settings.sizes.index(clip.size)), rejected


def _encoded(model: Model, tokenizer: text_lib.Tokenizer, settings: PrepareConfig,
             usable: Sequence[Usable], runs: dict[int, int]) -> Iterator[bytes]:
  """Records' bytes in order; counts them by bucket in `runs`."""
  texts = encoding.encode_texts(model, tokenizer, (clip.clip.prompt for clip in usable),
                                settings.text_batch)
  variant = _variant(model)
  states = _states(model, settings, usable)
  for bucket, size in enumerate(settings.sizes):
    same = [clip for clip in usable if clip.size == size]
    for kind, clips in itertools.groupby(same, key=type):
      if kind is MadeClip:
        made = _made_records(model, settings, [clip for clip in clips if isinstance(clip, MadeClip)],
                             texts, states)
      else:
        made = _window_records(model, settings, [clip for clip in clips if isinstance(clip, Footage)],
                               texts, states)
      for record in made:
        yield records.encode(record, settings.dtype, variant)
        runs[bucket] = runs.get(bucket, 0) + 1


def _states(model: Model, settings: PrepareConfig, usable: Sequence[Usable]) -> dict:
  """(image, audio) of each window of footage, and of each clip that the model made."""
  footage = [clip for clip in usable if isinstance(clip, Footage)]
  made = [clip for clip in usable if isinstance(clip, MadeClip)]
  states = {}
  if footage:
    windows = [window for clip in footage for window in clip.windows]
    images = encoding.encode_images(model, windows, settings.image_batch)
    sounds = encoding.encode_sounds(model, footage, settings)
    states |= dict(zip(windows, zip(images, sounds, strict=True), strict=True))
  if made:
    states |= dict(zip(made, made_lib.encode_states(model, made), strict=True))
  return states


def _window_records(model: Model, settings: PrepareConfig, footage: Sequence[Footage], texts: dict,
                    states: dict) -> Iterator[Record]:
  clip_of = {window: clip for clip in footage for window in clip.windows}
  stream = (pair for clip in footage for pair in stream_windows(clip, settings))
  for window, latents in encoding.encode_videos(model, stream, settings.video_batch):
    clip = clip_of[window]
    yield _record(clip, window, settings, latents, texts[clip.clip.prompt], *states[window])


def _made_records(model: Model, settings: PrepareConfig, clips: Sequence[MadeClip], texts: dict,
                  states: dict) -> Iterator[Record]:
  pictures = made_lib.encode_pictures(model, clips, settings.frames)
  for clip, (latents, condition) in zip(clips, pictures, strict=True):
    image, audio = states[clip]
    yield made_lib.make_record(clip, settings.frames, latents, condition, texts[clip.clip.prompt],
                               image, audio, _variant(model))


def _variant(model: Model) -> Variant:
  return variants.of(model.config.model.transformer.variant)


def _record(clip: Footage, window: Window, settings: PrepareConfig, latents: np.ndarray,
            text: np.ndarray, image: np.ndarray, audio: np.ndarray) -> Record:
  cells = lambda region: masks.mask_latents(
      masks.outside_mouth(region, settings.frames), clip.framing.size)[..., 0].astype(np.uint8)
  return Record(
      id=clip.clip.id, index=window.index, start=window.start, caption=clip.clip.prompt,
      source=clip.digest, latents=latents[0], masked_latents=latents[1:],
      lipsync_mask=cells(window.redrawn), mouth_mask=1 - cells(window.mouth), face_mask=window.face,
      text=text, image=image, audio=audio)
