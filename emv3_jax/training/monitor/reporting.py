"""Records of a run: metrics are read late, checked, and written every train.log_every steps."""

from collections.abc import Iterator, Sequence
import contextlib
import pathlib

from absl import logging
import jax

from emv3_jax.training import curriculum
from emv3_jax.training.curriculum import Kind, Stage
from emv3_jax.training.input.sources import Sources
from emv3_jax.training.monitor import metrics
from emv3_jax.training.monitor.divergence import diverged
from emv3_jax.training.monitor.metrics import StepMetrics, Writer
from emv3_jax.training.monitor.resources import Memory, Seconds
from emv3_jax.training.monitor.throughput import RUNNING, Throughput
from emv3_jax.training.settings import TrainConfig


class Reporter:
  """The metrics of a run on their way from the devices to metrics.jsonl.

  Args:
    config: log_every and max_loss.
    last_step: of the run, for the log.
    stages: of the run.
    throughput: of the run.
    sources: datasets, for the report of a divergence.
    workdir: the run's folder.

  Attributes:
    rows: metrics of the steps since the last record.
    due: step that a record is due of; None where none is.
    ema_share: what the average holds of the stage that ended with that step.
    seconds: of the run by part, since the last record.
  """

  def __init__(self, config: TrainConfig, last_step: int, stages: Sequence[Stage],
               throughput: Throughput, sources: Sources, workdir: pathlib.Path):
    self._config, self._last_step, self._stages = config, last_step, stages
    self._throughput, self._sources, self._workdir = throughput, sources, workdir
    self._pending = metrics.PendingMetrics()
    self.rows: list[StepMetrics] = []
    self.due: int | None = None
    self.ema_share: float | None = None
    self.seconds, self._memory = Seconds(), Memory()

  @contextlib.contextmanager
  def apart(self, part: str) -> Iterator[None]:
    """Counts the time of the block as `part`, and not as that of the steps."""
    self._memory.sample()
    with self._throughput.paused(), self.seconds.measure(part):
      yield

  def add(self, step: int, kind: Kind, values: dict[str, jax.Array]) -> None:
    """Takes the metrics of the step after which `step` steps are done; keeps few steps running."""
    self._pending.add(step, kind, values)
    self._pending.wait(RUNNING)

  def read(self, last: int) -> None:
    """Reads the metrics of steps up to `last`.

    Raises:
      Diverged: after one of them training cannot go on.
    """
    for row in self._pending.read(last):
      self.rows.append(row)
      fault = row.fault(self._config.max_loss)
      if fault:
        raise diverged(row, fault, self._sources, self._workdir)

  def after_step(self, step: int, stage_ended: bool) -> None:
    """After `step` steps: decides whether a record is due."""
    self.due = step if stage_ended or step % self._config.log_every == 0 else None

  def write(self, writer: Writer | None) -> None:
    """Writes the record that is due, if one is, about the steps since the one before it."""
    if self.due is None:
      return
    self.read(self.due)
    rows, self.rows, self.due = self.rows, [], None
    last = rows[-1]
    stage = curriculum.stage_position(self._stages, last.step - 1).stage.name
    record = {"step": last.step, "stage": stage, "kind": last.kind, **metrics.summarize(rows),
              **self._throughput.read(), **self._resources()}
    if self.ema_share is not None:
      record["ema_share"], self.ema_share = self.ema_share, None
      logging.info("The average holds %.3f of what stage %s changed.", record["ema_share"], stage)
    if writer is not None:
      writer.write(record)
      pace = f", {record['seconds_per_step']:.2f} s a step" if "seconds_per_step" in record else ""
      logging.info("Step %d of %d, %s: loss %.4f%s.", last.step, self._last_step, stage,
                   record["loss"], pace)

  def write_end(self, writer: Writer | None, step: int) -> None:
    """Writes to end.jsonl what this start of the run took after its last record."""
    if writer is not None:
      writer.write({"step": step, **self._resources()}, "end")

  def _resources(self) -> dict[str, float]:
    return {**self.seconds.read(), **self._memory.read()}
