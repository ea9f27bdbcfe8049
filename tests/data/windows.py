"""Small datasets of made-up records, for tests of what reads them."""

from collections.abc import Callable
import dataclasses
import json

import numpy as np
from safetensors.numpy import load, save

from emv3_jax import variants
from emv3_jax.data import index as index_lib
from emv3_jax.data import records
from emv3_jax.data.index import Bucket, Index, Shard
from emv3_jax.models.transformer import TransformerConfig

CONFIG = TransformerConfig(text_dim=6, text_tokens=8, image_dim=5, image_tokens=3, audio_dim=4)
FLASH = dataclasses.replace(CONFIG, variant="flash", audio_layers=2)


def make_record(number: int = 0, *, frames: int = 5, height: int = 32, width: int = 48,
                variant: str = "preview", task: str = "") -> records.Record:
  """Different numbers in every place, so that nothing can be mixed up unseen."""
  rng = np.random.default_rng(number)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  f, h8, w8 = Bucket(frames, height, width).latent_shape
  audio = normal(2 * frames, 4) if variant == "preview" else normal(frames + 4, 2, 4)
  flags = lambda *shape: rng.integers(0, 2, shape, np.uint8)
  mask = {"task_mask": flags(f, h8, w8, 4)} if task else {"lipsync_mask": flags(f, h8, w8)}
  return records.Record(
      id=f"clip {number} ü", index=number, start=3 * number, caption="Sie spricht.\n一", source="ab",
      latents=normal(f, h8, w8, 16), masked_latents=normal(1 if task else 3, f, h8, w8, 16),
      mouth_mask=flags(f, h8, w8), face_mask=flags(h8 // 2, w8 // 2), text=normal(1 + number % 8, 6),
      image=normal(1 if task else 2, 3, 5), audio=audio, task=task, **mask)


def as_version_1(data: bytes) -> bytes:
  """A record for any task as version 1 has it: without the field `task`."""
  count = int.from_bytes(data[:8], "little")
  metadata = json.loads(data[8:8 + count])["__metadata__"]
  assert metadata.pop("task") == ""
  return save(load(data), {**metadata, "version": "1"})


def write_dataset(folder, shards=((4, 0), (3, 0)), dtype: str = "float32",
                  config: TransformerConfig = CONFIG, version: int = records.STILL,
                  task_of: Callable[[int], str] = lambda number: ""):
  """A dataset with the given (records of 48x32 pixels, records of 32x48) in each shard.

  Record n of the dataset is `make_record(n)`, for the task `task_of(n)`.
  """
  (folder / index_lib.SHARDS).mkdir(parents=True)
  buckets = Bucket(5, 32, 48), Bucket(5, 48, 32)
  number, written = 0, []
  for counts in shards:
    encoded = []
    for bucket, count in zip(buckets, counts, strict=True):
      for _ in range(count):
        record = make_record(number, height=bucket.height, width=bucket.width,
                             variant=config.variant, task=task_of(number))
        data = records.encode(record, dtype, variants.of(config.variant))
        encoded.append(as_version_1(data) if version == 1 else data)
        number += 1
    file = f"{index_lib.SHARDS}/{len(written):05d}.array_record"
    records.write_shard(folder / file, encoded)
    runs = tuple((place, count) for place, count in enumerate(counts) if count)
    written.append(Shard(file, (folder / file).stat().st_size, runs))
  index_lib.write_index(folder, Index(
      schema=records.SCHEMA, version=version, records=number, clips=number, rejected=0,
      dtype=dtype, stride=5, buckets=buckets, conditions=index_lib.condition_fields(config),
      encoders={}, settings={}, shards=tuple(written)), np.ones((1, 6), np.float32))
  if version == 1:
    path = folder / index_lib.INDEX
    values = json.loads(path.read_text())
    del values["made_by"]
    path.write_text(json.dumps(values))
  return folder
