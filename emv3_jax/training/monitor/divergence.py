"""Divergence of a run, and the report of the step where it happened."""

import math
import pathlib

from emv3_jax.io.atomic import write_json
from emv3_jax.runtime import processes
from emv3_jax.tasks import by_number
from emv3_jax.training.input.sources import Sources
from emv3_jax.training.monitor.metrics import StepMetrics


class Diverged(Exception):
  """Training cannot go on: loss or gradients are not finite, or the loss is too large."""


def diverged(row: StepMetrics, fault: str, sources: Sources, workdir: pathlib.Path) -> Diverged:
  """Writes WORKDIR/diverged_STEP.json: the step's numbers, and its clips.

  Args:
    row: metrics of the step.
    fault: what is wrong with them.
    sources: the run's datasets.
    workdir: its folder.

  Returns:
    The exception to raise.
  """
  path = workdir / f"diverged_{row.step}.json"
  if processes.is_first():
    write_json(path, {"step": row.step, "why": fault,
                      **{name: _json_number(value) for name, value in row.values.items()
                         if not isinstance(value, list)}, **_clips(row, sources)})
  return Diverged(f"Stopped: in step {row.step} {fault}. Its batch is listed in {path}; the newest "
                  "checkpoint is from before it. Lower the learning rate, or leave the clips out.")


def _clips(row: StepMetrics, sources: Sources) -> dict:
  source, numbers = sources.of_step(row.step - 1), sources.record_numbers(row.step - 1)
  by_example = {name: values for name, values in row.values.items() if isinstance(values, list)}
  clips = []
  for index, number in enumerate(numbers):
    record = source.dataset[number]
    values = {name: _json_number(values[index]) for name, values in by_example.items()}
    clips.append({"record": int(number), "id": record.id, "window": record.index, **values,
                  "task": by_number(int(by_example["task"][index])).name})
  return {"dataset": source.folder, "batch": clips}


def _json_number(value: float) -> float | str:
  """JSON has no NaN."""
  return value if math.isfinite(value) else str(value)
