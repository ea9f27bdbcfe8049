"""From a dataset's files to batches of numpy arrays: shuffled, bucketed, read ahead in threads.

  dataset = Dataset(folder, config.model.transformer)
  batches = dataset.batches(config.train.batch, seed=config.seed, finish=draw_and_assemble)
  batches.set_state(dataset.state_at(step))  # or Orbax: the iterator is a checkpointable
  batch = next(batches)

Batch k is a function of (dataset, batch size, seed, k): neither threads nor processes nor where the run
was stopped change it. The state is k alone, {"next_index": k}, on every process.
"""

from collections.abc import Callable, Mapping, Sequence
import os
import pathlib

from absl import logging
import grain
import jax
import numpy as np

from emv3_jax import geometry, tasks, variants
from emv3_jax.data import index as index_lib
from emv3_jax.data import records
from emv3_jax.data.order import Order
from emv3_jax.data.records import Record
from emv3_jax.errors import InputError
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.tasks.conditions import ANY_TASK
from emv3_jax.variants import Variant

Batch = dict[str, np.ndarray]
Finish = Callable[[int, Batch], Mapping[str, np.ndarray]]


class Dataset:
  """A prepared dataset, opened and checked.

  Args:
    folder: what `python -m emv3_jax.preparation` wrote.
    config: of the transformer that is to be trained; None checks nothing.

  Attributes:
    index: what the dataset says of itself.
    empty_text: float32 [m, text_dim], umT5 states of the empty string.

  Raises:
    InputError: no dataset, incomplete, of another schema, or for another transformer.
  """

  def __init__(self, folder: str | os.PathLike, config: TransformerConfig | None = None):
    self.folder = pathlib.Path(folder)
    self.index = index_lib.read_index(folder)
    if config is not None:
      index_lib.check_conditions(folder, self.index, config)
    self.empty_text = index_lib.read_empty_text(folder)
    self._variant = variants.of(self.index.conditions.get("variant"))
    self._bytes = self._open()

  def _open(self) -> grain.sources.ArrayRecordDataSource:
    paths = [str(self.folder / shard.file) for shard in self.index.shards]
    try:
      source = grain.sources.ArrayRecordDataSource(paths)
    except (RuntimeError, ValueError) as error:
      raise InputError(f"Dataset {self.folder}: a shard is damaged ({error}).") from error
    held = len(source)  # pyright: ignore[reportArgumentType]  # grain's base class does not name it
    if held != self.index.records:
      raise InputError(f"Dataset {self.folder}: its shards hold {held} records, the index says "
                       f"{self.index.records}; prepare the clips again.")
    return source

  def __len__(self) -> int:
    return self.index.records

  def __getitem__(self, number: int) -> Record:
    """The record of a global record index.

    Raises:
      InputError: it is damaged or of another schema.
    """
    where = f"Dataset {self.folder}, record {number}"
    try:
      data = self._bytes[int(number)]
    except (RuntimeError, ValueError) as error:
      raise InputError(f"{where} cannot be read ({error}); copy the dataset again.") from error
    return records.decode(data, where, self._variant)

  def batch_of(self, numbers: np.ndarray) -> Batch:
    """The records of b global record indices, all of one bucket, as `collate` stacks them.

    Raises:
      InputError: a record is damaged or of another schema.
    """
    return collate([self[number] for number in numbers], numbers,
                   self.index.conditions["text_tokens"], self._variant)

  def batches(self, batch: int, *, seed: int | None, process_index: int | None = None,
              process_count: int | None = None, rows: Sequence[int] | None = None,
              threads: int = 4, ahead: int = 4,
              finish: Finish | None = None) -> grain.DatasetIterator:
    """Batches without end, of this process's examples.

    See `order.Order` for which records make a global batch. Process p of P gets its p-th part: rows
    p batch / P to (p + 1) batch / P.

    Args:
      batch: global batch size.
      seed: of the shuffling; None keeps the dataset's order.
      process_index, process_count: which part, of how many; None takes JAX's. Processes that hold
        the same examples (whose devices differ in context or tensor only) pass the same index.
      rows: the rows of the global batch to read, for a mesh whose processes hold rows that do not
        lie together; in place of process_index and process_count.
      threads: that read and decode.
      ahead: batches that are read ahead.
      finish: called as finish(number of the batch, batch) in the threads; what it returns takes the
        batch's place, e.g. with tasks drawn and assembled (`tasks.conditions.assemble`).

    Returns:
      An iterator of `collate`d batches: a Grain iterator with get_state() and set_state().

    Raises:
      InputError: the batch does not divide by the processes. The iterator raises it too, for a
        damaged record.
    """
    process_index = jax.process_index() if process_index is None else process_index
    process_count = jax.process_count() if process_count is None else process_count
    if rows is None and batch % process_count or batch < 1:
      raise InputError(f"A batch of {batch} does not divide by {process_count} processes; choose a "
                       "multiple.")
    self._warn_of_repeats(batch)
    if rows is None:
      rows = range(process_index * batch // process_count,
                   (process_index + 1) * batch // process_count)
    rows = list(rows)
    order = Order(self.index.bucket_numbers(), batch, seed)

    def read(step: int) -> Mapping[str, np.ndarray]:
      numbers = order.records(step)[rows]
      found = self.batch_of(numbers)
      return found if finish is None else finish(step, found)

    steps = grain.MapDataset.range(np.iinfo(np.int64).max)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, threads))
    return iter(steps.map(read).to_iter_dataset(options))

  @staticmethod
  def state_at(step: int) -> dict[str, int]:
    """The iterator's state after `step` batches, for `set_state`."""
    return {"next_index": step}

  def _warn_of_repeats(self, batch: int) -> None:
    counts = np.bincount(self.index.bucket_numbers(), minlength=len(self.index.buckets))
    for bucket, count in zip(self.index.buckets, counts.tolist(), strict=True):
      if 0 < count < batch:
        logging.warning("Dataset %s: %d records of %dx%d pixels in batches of %d; some are in a batch "
                        "more than once.", self.folder, count, bucket.width, bucket.height, batch)


def collate(found: Sequence[Record], numbers: np.ndarray, text_tokens: int,
            variant: Variant) -> Batch:
  """Records of one bucket as one batch.

  Args:
    found: b records.
    numbers: their global record indices.
    text_tokens: length that texts are zero-padded to.
    variant: of the network that the records are for.

  Returns:
    The arrays of `Record`, stacked: floating ones float32, masks uint8; `audio` as the network takes
    it; `task` int32 [b], numbers of tasks or -1 for any; and `example`, uint32 [b]. Records for one task fill
    all places of `masked_latents` and `image` with their own; `lipsync_mask` and `task_mask` are 0
    in the records that have none.
  """
  shape = found[0].latents.shape[:3]
  masks = {"lipsync_mask": np.zeros(shape, np.uint8),
           "task_mask": np.zeros((*shape, geometry.FRAMES), np.uint8)}
  stored = max(len(record.masked_latents) for record in found)
  places = {"masked_latents": stored, "image": len(tasks.ClipPicture)}
  batch = {name: np.stack([getattr(record, name) for record in found])
           for name in ("latents", "mouth_mask", "face_mask")}
  batch["audio"] = np.stack([variant.heard_in_window(record.audio) for record in found])
  for name, count in places.items():
    arrays = [getattr(record, name) for record in found]
    batch[name] = np.stack([np.broadcast_to(array, (count, *array.shape[1:])) for array in arrays])
  for name, none in masks.items():
    arrays = [getattr(record, name) for record in found]
    batch[name] = np.stack([none if array is None else array for array in arrays])
  batch["task"] = np.array([tasks.number(record.task) if record.task else ANY_TASK
                            for record in found], np.int32)
  dim = found[0].text.shape[1]
  batch["text"] = np.zeros((len(found), text_tokens, dim), np.float32)
  for row, record in enumerate(found):
    batch["text"][row, :len(record.text)] = record.text
  return {**batch, "example": np.asarray(numbers, np.uint32)}
