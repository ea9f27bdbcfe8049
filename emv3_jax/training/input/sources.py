"""The datasets of a run, and which of their records each step takes.

The k-th step that takes from the data takes its k-th batch; the k-th of a stage that takes negatives,
their k-th. So which records make a step's batch is a function of (datasets, schedule, batch size,
seed, step) alone.

A stage's datasets are needed when it begins: its negatives are sampled from weights that are not
there before.
"""

import dataclasses
import hashlib
import pathlib

from absl import logging
import numpy as np

from emv3_jax.data import index as index_lib
from emv3_jax.data import records
from emv3_jax.data.index import Index
from emv3_jax.data.order import Order
from emv3_jax.data.pipeline import Batch, Dataset
from emv3_jax.errors import InputError
from emv3_jax.runtime.command_names import as_called
from emv3_jax.tasks.face_masks import MOVING, RELEASED
from emv3_jax.training import curriculum
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.settings import Config


@dataclasses.dataclass(frozen=True)
class Source:
  """A dataset in one role.

  Attributes:
    folder: as the config names it.
    dataset: what is there.
    order: of its records in batches.
    stage: number of the stage whose negatives it holds; None for the run's own data.
  """

  folder: str
  dataset: Dataset
  order: Order
  stage: int | None

  def records(self, numbers: np.ndarray) -> Batch:
    """The records of these numbers."""
    return self.dataset.read_batch(numbers)

  def digest(self) -> str:
    """Identifies the dataset wherever it lies."""
    index = pathlib.Path(self.dataset.folder) / index_lib.INDEX
    return hashlib.sha256(index.read_bytes()).hexdigest()


@dataclasses.dataclass(frozen=True)
class RequiredDataset:
  """A dataset that a stage takes from.

  Attributes:
    folder: as the config names it.
    stage: number of the stage.
    name: of the stage.
    negative: whether it holds the stage's negatives, or the run's own data.
  """

  folder: str
  stage: int
  name: str
  negative: bool

  def __str__(self) -> str:
    takes = "takes its negatives" if self.negative else "learns"
    return f"stages.{self.stage} ({self.name!r}) {takes} from {self.folder}"

  def is_there(self) -> bool:
    """Whether the folder holds a dataset that is whole, if perhaps a wrong one."""
    return (pathlib.Path(self.folder) / index_lib.INDEX).exists()


def needs_data(config: Config, stage: Stage) -> bool:
  """Whether a stage takes from the run's own data."""
  return stage.kind != "ndpo" or stage.every > 1 or config.ndpo.sft_weight > 0


def _check_face_masks(folder: str, index: Index, wanted: str) -> None:
  """Checks that a dataset has the face masks that the run learns with.

  Raises:
    InputError: regions of lip-sync move in the dataset, and the run wants one box for each clip.
  """
  found = MOVING if index.version == records.MOVING else RELEASED
  if (found, wanted) == (MOVING, RELEASED):
    raise InputError(f"Dataset {folder} was prepared with face masks that move; loss.face_mask is {RELEASED}. Set "
                     f"--config.loss.face_mask={MOVING}, or prepare the clips with --config.prepare.face_mask={RELEASED}.")
  if found != wanted:
    logging.warning("Dataset %s was prepared with one face box for each window (prepare.face_mask=%s): in its records "
                    "face masks and regions of lip-sync stay where they are.", folder, RELEASED)


class Sources:
  """All datasets of a run; those that are there are opened and checked at once.

  Args:
    config: names them.

  Attributes:
    stages: of the run.
    data: the run's own dataset; None while it is not there.

  Raises:
    InputError: a stage names none; one that is there is incomplete or for another model; pairs that
      are none; negatives that are the data.
  """

  def __init__(self, config: Config):
    self._config, self.stages = config, config.all_stages()
    self.data: Source | None = None
    self._negatives: dict[int, Source] = {}
    for index in range(len(self.stages)):
      self._check_names(index)
    for index in range(len(self.stages)):
      self.missing(index)

  def _check_names(self, index: int) -> None:
    config, stage = self._config, self.stages[index]
    if needs_data(config, stage) and not config.data:
      raise InputError("The config names no dataset; set --config.data=DIR, a folder written by "
                       f"{as_called('emv3-prepare')}.")
    if stage.kind == "sft":
      return
    where = f"stages.{index} ({stage.name!r})"
    if not stage.negatives:
      raise InputError(f"{where} is of kind {stage.kind} and names no negatives; set them to a "
                       "dataset of the model's own videos.")
    if config.data and pathlib.Path(config.data).resolve() == pathlib.Path(stage.negatives).resolve():
      raise InputError(f"{where} takes its negatives from {stage.negatives}, which is the data that "
                       "the run learns from; give them a folder of their own.")

  def required(self, index: int) -> list[RequiredDataset]:
    """The datasets that stage `index` takes from."""
    stage, required = self.stages[index], []
    if needs_data(self._config, stage):
      required.append(RequiredDataset(self._config.data, index, stage.name, negative=False))
    if stage.kind != "sft":
      required.append(RequiredDataset(stage.negatives, index, stage.name, negative=True))
    return required

  def missing(self, index: int) -> RequiredDataset | None:
    """A dataset that stage `index` takes from and that is not there yet; opens those that are.

    Raises:
      InputError: one that is there cannot be used.
    """
    found = None
    for dataset in self.required(index):
      is_open = index in self._negatives if dataset.negative else self.data is not None
      if not is_open and not dataset.is_there():
        found = found or dataset
      elif not is_open and dataset.negative:
        self._negatives[index] = self._open(dataset.folder, index)
      elif not is_open:
        self.data = self._open(dataset.folder, None)
    if found is None and self.stages[index].kind == "dpo":
      self._check_pairs(index)
    return found

  def _open(self, folder: str, stage: int | None) -> Source:
    dataset = Dataset(folder, self._config.model.transformer)
    _check_face_masks(folder, dataset.index, self._config.loss.face_mask)
    order = Order(dataset.index.bucket_numbers(), self._config.train.batch, self._config.seed)
    return Source(folder, dataset, order, stage)

  def _check_pairs(self, index: int) -> None:
    found, data = self._negatives[index], self.own
    buckets = [source.dataset.index.bucket_numbers() for source in (found, data)]
    if not np.array_equal(buckets[0], buckets[1]):
      raise InputError(f"stages.{index} ({self.stages[index].name!r}) pairs record n of "
                       f"{found.folder} with record n of {data.folder}; they hold {len(buckets[0])} "
                       f"and {len(buckets[1])} records, or windows of other sizes.")

  @property
  def own(self) -> Source:
    """The run's own data, for steps that take from it: without it their stage does not begin."""
    assert self.data is not None
    return self.data

  def empty_text(self, index: int) -> np.ndarray:
    """float32 [m, text_dim]: umT5 states of the empty string, as stage `index` needs them."""
    source = self.data or self._negatives[index]
    return source.dataset.empty_text

  def made_by(self, index: int) -> str:
    """Digests of the weights that made the negatives of stage `index`; empty where none are known."""
    return self._negatives[index].dataset.index.made_by if index in self._negatives else ""

  def of_step(self, step: int) -> Source:
    """What the batch of a step is taken from: negatives in ndpo and dpo steps."""
    if curriculum.kind_at(self.stages, step) == "sft":
      return self.own
    return self._negatives[curriculum.stage_position(self.stages, step).index]

  def uses_positives(self, stage: Stage) -> bool:
    """Whether ndpo steps of the stage take a batch of the data beside the negatives."""
    return stage.kind == "ndpo" and self._config.ndpo.sft_weight > 0

  def batch_index(self, step: int, source: Source) -> int:
    """How many batches the steps before `step` take from a source."""
    position = curriculum.stage_position(self.stages, step)
    return sum(self._batches_taken(index, stage.steps, source)
               for index, stage in enumerate(self.stages[:position.index])
               ) + self._batches_taken(position.index, step - position.first_step, source)

  def _batches_taken(self, index: int, steps: int, source: Source) -> int:
    """Likewise of the first `steps` steps of a stage."""
    stage = self.stages[index]
    special = 0 if stage.kind == "sft" else steps // stage.every
    if source.stage is not None:
      return special if index == source.stage else 0
    return steps if self.uses_positives(stage) else steps - special

  def record_numbers(self, step: int) -> np.ndarray:
    """uint32 [b]: the record numbers of the batch of a step, those of all processes."""
    source = self.of_step(step)
    return source.order.records(self.batch_index(step, source))

  def digests(self) -> dict:
    """Identity of the data, and of the negatives by number of the stage, as far as they are there."""
    digests: dict = {"negatives": {str(index): source.digest()
                                   for index, source in sorted(self._negatives.items())}}
    return digests if self.data is None else {"data": self.data.digest(), **digests}
