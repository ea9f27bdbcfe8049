"""Calibrations of step caches: what was measured of one model at one schedule of steps, and the file that keeps it."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from jaxtyping import Float
import numpy as np

from emv3_jax.diffusion import step_caches
from emv3_jax.errors import InputError
from emv3_jax.io import atomic, paths
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime.command_names import as_called
from emv3_jax.sampling.settings import Settings

VERSION = 1
_STEM = "step_cache"
Numbers = tuple[float | None, ...]  # one a step; None where there is nothing to compare with
Measured = Sequence[float] | Float[np.ndarray, "steps"]  # NaN in its place


@dataclasses.dataclass(frozen=True)
class Run:
  """What a calibration is of; it serves no other run.

  Attributes:
    model: digest of the transformer.
    variant: of the transformer.
    solver, steps, shift, solver_shift: of the settings; they give the timesteps.
  """

  model: str
  variant: str
  solver: str
  steps: int
  shift: float
  solver_shift: float

  @classmethod
  def of(cls, settings: Settings, variant: str, model: str) -> "Run":
    """Makes the run of complete settings with the transformer of the digest `model`."""
    return cls(model, variant, settings.solver, settings.steps, settings.shift, settings.solver_shift)


@dataclasses.dataclass(frozen=True)
class Calibration:
  """What was measured in a run that skipped nothing.

  Attributes:
    run: what it is of.
    ratios: of each guidance branch, by name: magnitude of the residual to that at the step before.
    changes: relative changes of the time modulation e0.
    outputs: relative changes of the network's output.
    polynomial: from changes to outputs, highest power first.
    clip: of what clip, for people who read the file.
  """

  run: Run
  ratios: Mapping[str, Numbers]
  changes: Numbers
  outputs: Numbers
  polynomial: tuple[float, ...]
  clip: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def ratios_of(self, branches: Sequence[Sequence[str]]) -> Float[np.ndarray, "branches steps"]:
    """Returns the ratios of a run: NaN where a branch does not run, infinity where it begins after the first step.

    Args:
      branches: names of the branches that run at each step.

    Raises:
      InputError: a branch of the run was not measured at a step.
    """
    names = list(dict.fromkeys(name for step in branches for name in step))
    table = np.full((len(names), self.run.steps), np.nan)
    for row, name in enumerate(names):
      for i in range(1, self.run.steps):
        if name not in branches[i]:
          continue
        if name not in branches[i - 1]:
          table[row, i] = np.inf
          continue
        ratio = self.ratios.get(name, (None,) * self.run.steps)[i]
        if ratio is None:
          raise InputError(f"The calibration has no ratio of guidance branch {name!r} at step {i}, it has those of "
                           f"{', '.join(self.ratios)}; {_CALIBRATE} with this run's guidance.")
        table[row, i] = ratio
    return table


_CALIBRATE = f"calibrate with `{as_called('emv3-sample')} ... --calibrate`"


def measured(run: Run, ratios: Mapping[str, Measured], changes: Measured, outputs: Measured,
             clip: Mapping[str, Any]) -> Calibration:
  """Makes a calibration of measured numbers, NaN where there are none, and fits TeaCache's polynomial.

  Raises:
    InputError: the run has a single step, or no step changes the output.
  """
  if run.steps < 2:
    raise InputError("A run of 1 step has no step to compare; calibrate with 2 or more --config.sampling.steps.")
  if not (np.isfinite(changes) & np.isfinite(outputs)).any():
    raise InputError("The network's output is not finite or zero at every step: there is nothing to measure. Calibrate a "
                     "trained model.")
  polynomial = step_caches.fitted(np.asarray(changes), np.asarray(outputs))
  return Calibration(run, {name: _plain(values) for name, values in ratios.items()}, _plain(changes), _plain(outputs),
                     polynomial, clip)


def path_of(settings: Settings, folder: pathlib.Path | None) -> pathlib.Path | None:
  """Returns the path of the calibration of complete settings: the one that they name, else one beside the model.

  Args:
    settings: of the sampling.
    folder: of the model; without one, and without a name, there is no path.
  """
  if settings.cache.file:
    return paths.expanded(settings.cache.file)
  name = f"{_STEM}_{settings.solver}_{settings.steps}_{settings.shift:g}_{settings.solver_shift:g}.json"
  return None if folder is None else folder / name


def write(path: str | os.PathLike, calibration: Calibration) -> None:
  """Writes a calibration as JSON.

  Raises:
    InputError: the file cannot be written.
  """
  atomic.write_json(path, {"step_cache": VERSION, **dataclasses.asdict(calibration)})


def read(path: pathlib.Path, run: Run) -> Calibration:
  """Reads the calibration of a run.

  Raises:
    InputError: there is no such file, it is no calibration, or it is one of another run.
  """
  if not path.is_file():
    others = sorted(other.name for other in path.parent.glob(f"{_STEM}_*.json"))
    having = f" (there: {', '.join(others)})" if others else ""
    raise InputError(f"There is no calibration {path}{having}. It is of one model, solver, number of steps and shift; "
                     f"{_CALIBRATE}, or leave sampling.cache.kind=none.")
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
    found = _parsed(content)
  except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
    raise InputError(f"{path} is no calibration of a step cache ({type(error).__name__}: {error}); {_CALIBRATE}."
                     ) from error
  for name, wanted in dataclasses.asdict(run).items():
    value = getattr(found.run, name)
    if value != wanted:
      raise InputError(f"Calibration {path} is of {name} {_short(value)}, this run has {_short(wanted)}; "
                       f"{_CALIBRATE}, or choose another --config.sampling.cache.file.")
  return found


def _parsed(content: dict) -> Calibration:
  if content.get("step_cache") != VERSION:
    raise ValueError(f"step_cache is {content.get('step_cache')!r}, this release reads {VERSION}")
  run = config_lib.build(Run, content["run"], "run")
  numbers = lambda name, values: _numbers(name, values, run.steps)
  polynomial = _numbers("polynomial", content["polynomial"], len(content["polynomial"]))
  if not polynomial or None in polynomial:
    raise ValueError("polynomial is not of numbers")
  return Calibration(
      run, {str(name): numbers(name, values) for name, values in content["ratios"].items()},
      numbers("changes", content["changes"]), numbers("outputs", content["outputs"]),
      tuple(value for value in polynomial if value is not None), dict(content.get("clip", {})))


def _numbers(name: str, values: Any, length: int) -> Numbers:
  valid = all(value is None or type(value) in (int, float) and math.isfinite(value) for value in values)
  if len(values) != length or not valid:
    raise ValueError(f"{name} is not {length} finite numbers")
  return tuple(None if value is None else float(value) for value in values)


def _plain(values: Measured) -> Numbers:
  return tuple(float(value) if math.isfinite(value) else None for value in values)


def _short(value: Any) -> str:
  """Shortens a digest for a message."""
  return f"{value[:12]}..." if isinstance(value, str) and len(value) > 40 else str(value)
