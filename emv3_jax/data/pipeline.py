"""From the files of a dataset to batches of numpy arrays: shuffled, bucketed, prefetched by threads.

  dataset = Dataset(folder, config.model.transformer)
  batches = dataset.batches(config.train.batch, seed=config.seed, transform=draw_and_assemble)
  batches.set_state(dataset.state_at(step))  # or Orbax: the iterator is a checkpointable
  batch = next(batches)

Batch k is a function of (dataset, batch size, seed, k); it does not depend on threads, processes, or the
step at which a run was stopped. The state is {"next_index": k} on every process.
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
Transform = Callable[[int, Batch], Mapping[str, np.ndarray]]


class Dataset:
  """A prepared dataset, opened and checked.

  Args:
    folder: written by `python -m emv3_jax.preparation`.
    config: of the transformer to train; with None it is not checked.

  Attributes:
    index: the dataset's index.
    empty_text: float32 [m, text_dim], umT5 states of the empty string.

  Raises:
    InputError: the folder holds no dataset, or one that is incomplete, has another schema, or is for
      another transformer.
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
    """Reads the record with this global index.

    Raises:
      InputError: it is damaged or has another schema.
    """
    label = f"Dataset {self.folder}, record {number}"
    try:
      data = self._bytes[int(number)]
    except (RuntimeError, ValueError) as error:
      raise InputError(f"{label} cannot be read ({error}); copy the dataset again.") from error
    return records.decode(data, label, self._variant)

  def read_batch(self, numbers: np.ndarray) -> Batch:
    """Reads the records with these b global indices, all of one bucket, and stacks them by `collate`.

    Raises:
      InputError: a record is damaged or has another schema.
    """
    return collate([self[number] for number in numbers], numbers,
                   self.index.conditions["text_tokens"], self._variant)

  def batches(self, batch: int, *, seed: int | None, process_index: int | None = None,
              process_count: int | None = None, rows: Sequence[int] | None = None,
              threads: int = 4, prefetch: int = 4,
              transform: Transform | None = None) -> grain.DatasetIterator:
    """Iterates without end over batches of this process's examples.

    `order.Order` chooses the records of a global batch. Process p of P reads the p-th part: rows
    p batch / P to (p + 1) batch / P.

    Args:
      batch: global batch size.
      seed: of the shuffling; None keeps the dataset's order.
      process_index, process_count: the part and the number of parts; None takes those of JAX. Processes
        with the same examples (whose devices differ only in context or tensor) pass the same index.
      rows: rows of the global batch to read, for a mesh whose processes hold rows that are not
        contiguous; used instead of process_index and process_count.
      threads: number of threads that read and decode.
      prefetch: number of batches that are read ahead.
      transform: called in the threads as transform(step, batch); its result replaces the batch, e.g.
        with tasks drawn and conditions assembled (`tasks.conditions.assemble`).

    Returns:
      An iterator of `collate`d batches: a Grain iterator with get_state() and set_state().

    Raises:
      InputError: the batch does not divide by the number of processes. The iterator raises it too, for
        a damaged record.
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
      batch = self.read_batch(numbers)
      return batch if transform is None else transform(step, batch)

    steps = grain.MapDataset.range(np.iinfo(np.int64).max)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return iter(steps.map(read).to_iter_dataset(options))

  @staticmethod
  def state_at(step: int) -> dict[str, int]:
    """Returns the iterator's state after `step` batches, for `set_state`."""
    return {"next_index": step}

  def _warn_of_repeats(self, batch: int) -> None:
    counts = np.bincount(self.index.bucket_numbers(), minlength=len(self.index.buckets))
    for bucket, count in zip(self.index.buckets, counts.tolist(), strict=True):
      if 0 < count < batch:
        logging.warning("Dataset %s: %d records of %dx%d pixels in batches of %d; some are in a batch "
                        "more than once.", self.folder, count, bucket.width, bucket.height, batch)


def collate(examples: Sequence[Record], numbers: np.ndarray, text_tokens: int,
            variant: Variant) -> Batch:
  """Stacks records of one bucket to a batch.

  Args:
    examples: b records.
    numbers: their global indices.
    text_tokens: length that texts are zero-padded to.
    variant: of the network that the records are for.

  Returns:
    The arrays of `Record`, stacked: floating ones float32, masks uint8; `audio`, the network's input;
    `task` int32 [b], numbers of tasks or -1 for any; and `example`, uint32 [b]. A record for one task
    repeats its array in all slots of `masked_latents` and `image`; `lipsync_mask`, `task_mask`, `face_mask`
    and `face_box` are 0 for records that have none.
  """
  shape = examples[0].latents.shape[:3]
  masks = {"lipsync_mask": np.zeros(shape, np.uint8),
           "task_mask": np.zeros((*shape, geometry.FRAMES), np.uint8),
           "face_mask": np.zeros(geometry.grid_of_latents(shape[1:]), np.uint8),
           "face_box": np.zeros((geometry.frames_of(shape[0]), 4), np.uint16)}
  stored = max(len(record.masked_latents) for record in examples)
  slots = {"masked_latents": stored, "image": len(tasks.ReferenceImage)}
  batch = {name: np.stack([getattr(record, name) for record in examples])
           for name in ("latents", "mouth_mask")}
  batch["audio"] = np.stack([variant.window_input(record.audio) for record in examples])
  for name, count in slots.items():
    arrays = [getattr(record, name) for record in examples]
    batch[name] = np.stack([np.broadcast_to(array, (count, *array.shape[1:])) for array in arrays])
  for name, none in masks.items():
    arrays = [getattr(record, name) for record in examples]
    batch[name] = np.stack([none if array is None else array for array in arrays])
  batch["task"] = np.array([tasks.number(record.task) if record.task else ANY_TASK
                            for record in examples], np.int32)
  dim = examples[0].text.shape[1]
  batch["text"] = np.zeros((len(examples), text_tokens, dim), np.float32)
  for row, record in enumerate(examples):
    batch["text"][row, :len(record.text)] = record.text
  return {**batch, "example": np.asarray(numbers, np.uint32)}
