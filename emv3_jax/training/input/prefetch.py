"""Batches on the mesh, made ahead in a thread: records read, tasks drawn, rows put on the devices.

A step's tasks are drawn by (seed, step, record), but for records that name their own. So neither
where a run was stopped nor the number of processes nor threads change a batch; see `training.input.sources` for which records are in it.
"""

import dataclasses
import queue
import threading
import time

import grain
import jax
from jax.sharding import NamedSharding
import numpy as np

from emv3_jax.data import pipeline
from emv3_jax.errors import InputError
from emv3_jax.tasks import by_number
from emv3_jax.tasks.conditions import ANY_TASK, assemble
from emv3_jax.training import curriculum
from emv3_jax.training.batch import Batch
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.input.sources import Source, Sources
from emv3_jax.training.settings import Config

AHEAD = 2  # batches that wait on the devices for their steps
_POLL = 0.05  # seconds


@dataclasses.dataclass(frozen=True)
class StepBatch:
  """What a step is called with; `positives` where its kind wants them."""

  step: int
  batch: Batch
  positives: Batch | None


class Prefetcher:
  """Batches of the steps from `first` up to `end`, in order; a context manager.

  Args:
    config: the run's.
    sources: its datasets.
    target: sharding of a batch's arrays: the leading axis is split, over which train.batch divides.
    first: the first step.
    end: the step before which it stops reading ahead: what later steps take need not be there.

  Attributes:
    end: as given.
    stalled: seconds that `take` has waited.
  """

  def __init__(self, config: Config, sources: Sources, target: NamedSharding, first: int,
               end: int):
    self._config, self._sources, self._target = config, sources, target
    self._rows = local_rows(target, config.train.batch)
    self._iterators: dict[Source, grain.DatasetIterator] = {}
    self._queue: queue.Queue = queue.Queue(AHEAD)
    self._stopped = threading.Event()
    self.end = end
    self._thread = threading.Thread(target=self._produce, args=(first,), daemon=True,
                                    name="prefetch")
    self.stalled = 0.0

  def __enter__(self) -> "Prefetcher":
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._stopped.set()
    self._thread.join()
    self._iterators.clear()

  def take(self, step: int) -> StepBatch:
    """The batch of `step`; steps are to be taken one after the other.

    Raises:
      InputError: a damaged record, or a pair of two tasks.
      ValueError: it is not the next one, or there is none.
    """
    if step >= self.end:
      raise ValueError(f"The batch of step {step} was asked for; they end before {self.end}.")
    start = time.perf_counter()
    made = self._queue.get()
    self.stalled += time.perf_counter() - start
    if isinstance(made, Exception):
      raise made
    if made.step != step:
      raise ValueError(f"The batch of step {step} was asked for, that of {made.step} is next.")
    return made

  def _produce(self, step: int) -> None:
    while step < self.end and not self._stopped.is_set():
      try:
        made = self._make(step)
      except Exception as error:  # the taker raises it
        made = error
      self._put(made)
      if isinstance(made, Exception):
        return
      step += 1

  def _put(self, made: StepBatch | Exception) -> None:
    while not self._stopped.is_set():
      try:
        self._queue.put(made, timeout=_POLL)
        return
      except queue.Full:
        pass

  def _make(self, step: int) -> StepBatch:
    sources = self._sources
    position = curriculum.stage_position(sources.stages, step)
    stage, kind = position.stage, position.kind
    records, positives = self._next(sources.of_step(step), step), None
    if kind == "dpo":
      positives = sources.own.records(records["example"])
    elif kind == "ndpo" and sources.uses_positives(stage):
      positives = self._next(sources.own, step)
    to_batch = lambda records, others: to_mesh(
        make_batch(self._config.seed, step, stage, records, others if kind == "dpo" else None,
                   face_mask=self._config.loss.face_mask),
        self._target, self._config.train.batch)
    return StepBatch(step, to_batch(records, positives),
                     None if positives is None else to_batch(positives, records))

  def _next(self, source: Source, step: int) -> pipeline.Batch:
    """This process's rows of the records that `step` takes from a source."""
    if source not in self._iterators:
      iterator = source.dataset.batches(
          self._config.train.batch, seed=self._config.seed, rows=self._rows,
          threads=self._config.train.data_threads)
      iterator.set_state(source.dataset.state_at(self._sources.batch_index(step, source)))
      self._iterators[source] = iterator
    return next(self._iterators[source])


def make_batch(seed: int, step: int, stage: Stage, records: pipeline.Batch,
             pair: pipeline.Batch | None = None, *, face_mask: str) -> Batch:
  """Records as a training batch of `step`.

  A record that names its task has that one, whatever the stage's mixture; others' are drawn.

  Args:
    seed: of the run.
    step: of the run.
    stage: that the step belongs to.
    records: of the batch.
    pair: records that row by row make pairs with these, under one task: a row that names none takes
      the other's.
    face_mask: `moving` or `released`, as `LossConfig.face_mask`.

  Raises:
    InputError: two of a pair name different tasks.
  """
  tasks = curriculum.draw_tasks(seed, step, records["example"], stage.mixture)
  if pair is not None:
    _check_pairs(stage, records, pair)
    tasks = np.where(pair["task"] == ANY_TASK, tasks, pair["task"])
  batch = Batch(**assemble(records, tasks, face_mask))
  if not stage.audio:
    batch = dataclasses.replace(batch, audio=np.zeros_like(batch.audio))
  return batch


def _check_pairs(stage: Stage, records: pipeline.Batch, pair: pipeline.Batch) -> None:
  ours, theirs = records["task"], pair["task"]
  apart = np.flatnonzero((ours != theirs) & (ours != ANY_TASK) & (theirs != ANY_TASK))
  if len(apart):
    row = apart[0]
    names = " and ".join(sorted(by_number(int(tasks[row])).name for tasks in (ours, theirs)))
    raise InputError(f"Stage {stage.name!r} pairs record {records['example'][row]} of its negatives "
                     f"with that of the data, but they are for the tasks {names}; a pair needs one. "
                     "Prepare the data without reports, or from clips of the negatives' tasks.")


def local_rows(target: NamedSharding, batch: int) -> list[int]:
  """The rows of a global batch that devices of this process hold, in order."""
  held = target.addressable_devices_indices_map((batch,)).values()
  return sorted({row for index in held if index is not None for row in range(*index[0].indices(batch))})


def to_mesh(local: Batch, target: NamedSharding, batch: int) -> Batch:
  """This process's rows of a batch as arrays of all `batch` rows, split as `target` says."""
  return jax.tree.map(lambda array: jax.make_array_from_process_local_data(
      target, array, (batch, *array.shape[1:])), local)
