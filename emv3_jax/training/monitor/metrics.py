"""Metrics of a run: means over the steps since the last record, by task and by band of sigma.

A step's metrics stay on the devices while the next steps are started, and are read when they are
there. Those of a record that is not yet due go into a checkpoint, so that a run that is resumed
writes the records that it would have written.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io.atomic import atomic_file
from emv3_jax.tasks import names
from emv3_jax.training.curriculum import Kind
from emv3_jax.training.monitor.tensorboard import TensorBoard
from emv3_jax.training.monitor.wandb_run import WandbRun

BANDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of sigma
_LAST = ("learning_rate", "ema_decay")  # of which the last value is reported
_LABELS = ("task", "sigma")
_WATCHED = ("d", "d_positive", "positive_error")  # errors in steps whose loss is not an error
_ERRORS = ("error", "d")  # by example, of sft and of negative DPO; grouped by task and sigma


@dataclasses.dataclass(frozen=True)
class StepMetrics:
  """Metrics of one step, on the host.

  Attributes:
    step: number of steps done with it.
    kind: of the step.
    values: numbers, and lists of b numbers for metrics by example.
  """

  step: int
  kind: Kind
  values: dict[str, Any]

  def fault(self, max_loss: float) -> str | None:
    """Why training cannot go on after this step, if it cannot."""
    for name in ("loss", "grad_norm"):
      if not math.isfinite(self.values[name]):
        return f"{name} is {self.values[name]}"
    for name, error in self._errors().items():
      if error > max_loss:
        return f"{name} is {error:g}, above train.max_loss {max_loss:g}"
    return None

  def _errors(self) -> dict[str, float]:
    """Mean errors of the velocity. That of an sft step is its loss; other losses are not errors."""
    if self.kind == "sft":
      return {"loss": self.values["loss"]}
    return {name: float(np.mean(self.values[name])) for name in _WATCHED if name in self.values}


class PendingMetrics:
  """Metrics that are still on the devices."""

  def __init__(self):
    self._steps: list[tuple[int, Kind, dict[str, jax.Array]]] = []

  def add(self, step: int, kind: Kind, metrics: dict[str, jax.Array]) -> None:
    """Starts copying the metrics of a step to the host."""
    for array in metrics.values():
      array.copy_to_host_async()
    self._steps.append((step, kind, metrics))

  def wait(self, running: int) -> None:
    """Waits until no more than `running` steps are."""
    if len(self._steps) > running:
      jax.block_until_ready(self._steps[-1 - running][2]["loss"])

  def read(self, last: int) -> list[StepMetrics]:
    """Metrics of the steps up to `last` that were not read before; waits for them."""
    due = [entry for entry in self._steps if entry[0] <= last]
    self._steps = self._steps[len(due):]
    return [StepMetrics(step, kind, {name: np.asarray(array.addressable_data(0)).tolist()
                             for name, array in metrics.items()})
            for step, kind, metrics in due]


def summarize(rows: Sequence[StepMetrics]) -> dict[str, float]:
  """Means over steps; means of errors over the examples of each task and band of sigma too.

  `loss` is the mean over all steps; where they are of several kinds, `loss/KIND` is that of a kind. Names with a slash belong to the group before it: `loss/i2v`, `loss/sigma_0.0-0.2`.
  """
  means: dict[str, float] = {}
  for name in dict.fromkeys(name for row in rows for name in row.values):
    if not name.endswith(_LABELS) and name != "error":  # whose mean is the loss
      values = [row.values[name] for row in rows if name in row.values]
      means[name] = float(values[-1] if name in _LAST else np.mean(values))
  kinds = {row.kind for row in rows}
  if len(kinds) > 1:
    for kind in sorted(kinds):
      means[f"loss/{kind}"] = float(np.mean([row.values["loss"] for row in rows
                                            if row.kind == kind]))
  for prefix in ("", "positive_"):
    for name in _ERRORS:
      found = [row.values for row in rows if prefix + name in row.values]
      if found:
        group = prefix + ("loss" if name == "error" else name)
        means |= _by_label(group, *(np.concatenate([values[prefix + of] for values in found])
                                   for of in (name, *_LABELS)))
  return means


def _by_label(group: str, errors: np.ndarray, tasks: np.ndarray,
              sigmas: np.ndarray) -> dict[str, float]:
  means = {}
  for number, task in enumerate(names()):
    if (tasks == number).any():
      means[f"{group}/{task}"] = float(errors[tasks == number].mean())
  bands = np.clip(np.searchsorted(BANDS, sigmas, side="right") - 1, 0, len(BANDS) - 2)
  for number in np.unique(bands):
    means[f"{group}/sigma_{BANDS[number]}-{BANDS[number + 1]}"] = float(
        errors[bands == number].mean())
  return means


class Writer:
  """WORKDIR/metrics.jsonl, held_out.jsonl, end.jsonl and TensorBoard events; a context manager.

  Args:
    workdir: the run's folder.
    step: the step that the run resumes from: records of later steps are dropped.
    wandb: run of wandb that gets the numbers too, if any; it is closed with this.

  Raises:
    InputError: the disk is full; from `write` and at the end too.
  """

  def __init__(self, workdir: pathlib.Path, step: int, wandb: WandbRun | None = None):
    self._workdir, self._events, self._wandb = workdir, workdir / "tensorboard", wandb
    for name in ("metrics", "held_out", "end"):
      drop_after(workdir / f"{name}.jsonl", step)
    with _checked_writing(self._events):
      self._tensorboard = TensorBoard(self._events, step)

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, kind, *_) -> None:
    if self._wandb is not None:
      self._wandb.close(failed=kind is not None)
    # An error is on its way already: one of TensorBoard's would hide it.
    with contextlib.suppress(OSError) if kind else _checked_writing(self._events):
      self._tensorboard.close()

  def write(self, record: dict, name: str = "metrics") -> None:
    """Appends a record to NAME.jsonl; its floats go to TensorBoard and wandb too."""
    path = self._workdir / f"{name}.jsonl"
    with _checked_writing(path), path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(record) + "\n")
    numbers = {tag if name == "metrics" else f"{name}/{tag}": value
               for tag, value in record.items() if isinstance(value, float)}
    with _checked_writing(self._events):
      for tag, value in numbers.items():
        self._tensorboard.add_scalar(tag, value, record["step"])
      self._tensorboard.flush()
    if self._wandb is not None:
      self._wandb.log(numbers, record["step"])


@contextlib.contextmanager
def _checked_writing(path: pathlib.Path):
  """Raises InputError with the name of what could not be written."""
  try:
    yield
  except OSError as error:
    raise InputError(f"Metrics could not be written to {path} ({error.strerror}).\nFree the disk and "
                     "run the same command again.") from error


def drop_after(path: pathlib.Path, step: int) -> None:
  """Drops records of steps after `step`, and what a killed process left unfinished."""
  if not path.exists():
    return
  kept = []
  with _checked_writing(path):
    content = path.read_bytes()
  for text in content.decode(errors="replace").splitlines():
    try:
      if json.loads(text)["step"] <= step:
        kept.append(text)
    except (ValueError, TypeError, KeyError, RecursionError):  # a line that was damaged
      pass
  with atomic_file(path) as temporary:
    temporary.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
