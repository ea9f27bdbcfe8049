"""The datasets of a run, and which of their records each step takes.

The k-th step that takes from a dataset takes its k-th batch. So which records make a step's batch is
a function of (datasets, schedule, batch size, seed, step) alone.
"""

import dataclasses
import hashlib
import pathlib

import numpy as np

from emv3_jax.data import index as index_lib
from emv3_jax.data.order import Order
from emv3_jax.data.pipeline import Batch, Dataset, collate
from emv3_jax.errors import InputError
from emv3_jax.tasks import schedule
from emv3_jax.tasks.schedule import Stage
from emv3_jax.training.settings import Config


@dataclasses.dataclass(frozen=True)
class Source:
  """A dataset in one role.

  Attributes:
    folder: as the config names it.
    dataset: what is there.
    order: of its records in batches.
    negative: whether it is taken from as negatives, or as the run's own data.
  """

  folder: str
  dataset: Dataset
  order: Order
  negative: bool

  def records(self, numbers: np.ndarray) -> Batch:
    """The records of these numbers."""
    text_tokens = self.dataset.index.conditions["text_tokens"]
    return collate([self.dataset[number] for number in numbers], numbers, text_tokens)

  def digest(self) -> str:
    """Identifies the dataset wherever it lies."""
    index = pathlib.Path(self.dataset.folder) / index_lib.INDEX
    return hashlib.sha256(index.read_bytes()).hexdigest()


class Sources:
  """All datasets of a run, opened and checked.

  Args:
    config: names them.

  Attributes:
    stages: of the run.
    data: the run's own dataset.

  Raises:
    InputError: none is named; one is missing, incomplete, or for another model; pairs that are none.
  """

  def __init__(self, config: Config):
    self._config, self.stages = config, config.all_stages()
    if not config.data:
      raise InputError("The config names no dataset; set --config.data=DIR, a folder written by "
                       "python -m emv3_jax.data.prepare.")
    self.data = self._open(config.data, negative=False)
    self._negatives: dict[str, Source] = {}
    for stage in self.stages:
      if stage.kind != "sft":
        self._add_negatives(stage)

  def _open(self, folder: str, negative: bool) -> Source:
    dataset = Dataset(folder, self._config.model.transformer)
    order = Order(dataset.index.bucket_numbers(), self._config.train.batch, self._config.seed)
    return Source(folder, dataset, order, negative)

  def _add_negatives(self, stage: Stage) -> None:
    if not stage.negatives:
      raise InputError(f"Stage {stage.name!r} is of kind {stage.kind} and names no negatives; set "
                       "them to a dataset of the model's own videos.")
    if stage.negatives not in self._negatives:
      self._negatives[stage.negatives] = self._open(stage.negatives, negative=True)
    found, data = self._negatives[stage.negatives].dataset, self.data.dataset
    if stage.kind == "dpo" and not np.array_equal(found.index.bucket_numbers(),
                                                  data.index.bucket_numbers()):
      raise InputError(f"Stage {stage.name!r} pairs record n of {stage.negatives} with record n of "
                       f"{self.data.folder}; they hold {len(found)} and {len(data)} records, or "
                       "windows of other sizes.")

  def of_step(self, step: int) -> Source:
    """What the batch of a step is taken from: negatives in ndpo and dpo steps."""
    if schedule.kind_at(self.stages, step) == "sft":
      return self.data
    return self._negatives[schedule.place_of(self.stages, step).stage.negatives]

  def learns_beside_negatives(self, stage: Stage) -> bool:
    """Whether ndpo steps of the stage learn a batch of the data too."""
    return stage.kind == "ndpo" and self._config.ndpo.sft_weight > 0

  def number(self, step: int, source: Source) -> int:
    """How many batches the steps before `step` take from a source."""
    place = schedule.place_of(self.stages, step)
    return sum(self._taken(stage, stage.steps, source) for stage in self.stages[:place.index]
               ) + self._taken(place.stage, step - place.first, source)

  def _taken(self, stage: Stage, steps: int, source: Source) -> int:
    """Likewise of the first `steps` steps of a stage."""
    special = 0 if stage.kind == "sft" else steps // stage.every
    if source.negative:
      return special if stage.negatives == source.folder else 0
    return steps if self.learns_beside_negatives(stage) else steps - special

  def examples(self, step: int) -> np.ndarray:
    """uint32 [b]: the record numbers of the batch of a step, those of all processes."""
    source = self.of_step(step)
    return source.order.records(self.number(step, source))

  def digests(self) -> dict[str, str]:
    """Identity of the data, and of the negatives by stage."""
    return {"data": self.data.digest(), **{
        stage.name: self._negatives[stage.negatives].digest()
        for stage in self.stages if stage.kind != "sft"}}
