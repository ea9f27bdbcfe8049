"""State at the start of a stage, saved on disk to its end: how much of its change the average holds.

WORKDIR/stage_start/STEP/ema      the average before the stage's first step, an Orbax checkpoint
WORKDIR/stage_start/STEP/params   the weights, where they are not the average

With D the difference between a stage's end and its beginning, that share is

  <D average, D weights> / <D weights, D weights>

At the stage's end the leaves come back from disk a few at a time, each to where its like lies on the
mesh. So on the devices there is never a second copy of the weights.
"""

from collections.abc import Iterator
import functools
import math
import operator
import os
import pathlib
import shutil

from absl import logging
import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from emv3_jax.errors import InputError
from emv3_jax.io.digests import component_digest
from emv3_jax.models.network import Params, named_leaves, nested
from emv3_jax.runtime import processes
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.update.programs import TrainPrograms
from emv3_jax.training.update.state import State

FOLDER = "stage_start"
BATCH_BYTES = 256 << 20  # of leaves that are read together; a larger one comes alone


class StageStart:
  """Saved starts of the stages of a run; every process calls all methods.

  Args:
    workdir: the run's folder.
    programs: of the run.
  """

  def __init__(self, workdir: pathlib.Path, programs: TrainPrograms):
    self._folder, self._programs = workdir.absolute() / FOLDER, programs
    whole = jax.NamedSharding(programs.mesh, jax.P())
    self._sums = programs.jit(_sums, donate_argnums=(), out_shardings=whole)

  def save(self, step: int, state: State, stage: Stage) -> None:
    """Writes what `stage`, whose first step is `step`, starts with.

    Starts of earlier stages stay: a run that is killed may resume within one of them.

    Raises:
      InputError: the disk is full.
    """
    names = ("ema", "params") if stage.start == "online" and step else ("ema",)
    self._remove(self._folder / str(step))
    try:
      for name in names:
        with ocp.Context():
          ocp.save(os.fspath(self._folder / str(step) / name), state[name])
    except (OSError, ValueError, RuntimeError) as error:
      raise InputError(f"What the stage at step {step} starts with could not be written to "
                       f"{self._folder} ({(str(error).splitlines() or ['?'])[0][:300]}).\n"
                       "Free the disk and run the same command again.") from error

  def digest(self, step: int) -> str:
    """Of the average that the stage from step `step` on starts with: what `made_by` calls weights."""
    return component_digest(self._folder / str(step) / "ema")

  def remove_before(self, first: int) -> None:
    """Removes the starts of stages before the one from step `first` on: no run resumes there."""
    folders = self._folder.iterdir() if self._folder.is_dir() else ()
    self._remove(*(path for path in folders if path.name.isdecimal() and int(path.name) < first))

  def remove(self) -> None:
    """Removes all that was saved."""
    self._remove(self._folder)

  def _remove(self, *folders: pathlib.Path) -> None:
    if processes.is_first():
      for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    processes.any_process(False)  # waits for it

  def share(self, first: int, state: State) -> float | None:
    """The share of what the stage from step `first` on has changed that the average holds.

    Returns:
      None where the weights are what they were, or nothing was saved: by a release up to 0.1.

    Raises:
      InputError: what was saved cannot be read.
    """
    path = self._folder / str(first)
    kinds = [kind for kind in ("ema", "params") if ocp.is_orbax_checkpoint(os.fspath(path / kind))]
    if processes.any_process("ema" not in kinds):
      logging.info("%s is not there, so that the average's share is not known.", path)
      return None
    along = length = 0.0
    try:
      for names in _batches(state["params"]):
        start = {"params": None, **{kind: _read(path / kind, names, state[kind]) for kind in kinds}}
        start["params"] = start["params"] or start["ema"]
        now = {kind: {name: named_leaves(state[kind])[name] for name in names}
               for kind in ("params", "ema")}
        parts = jax.device_get(self._sums(start, now))
        along, length = along + float(parts[0]), length + float(parts[1])
    except (OSError, ValueError, KeyError) as error:
      raise InputError(f"{path} cannot be read ({(str(error).splitlines() or ['?'])[0][:300]}); "
                       "remove that folder and run the same command again.") from error
    return along / length if length else None


def _read(path: pathlib.Path, names: list[str], like: Params) -> dict[str, jax.Array]:
  """Those leaves of what was saved, by name, each where its like lies."""
  wanted = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in named_leaves(like).items() if name in names}
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context:
    return named_leaves(ocp.load(os.fspath(path), nested(wanted)))


def _batches(params: Params) -> Iterator[list[str]]:
  """Names of leaves, up to BATCH_BYTES together."""
  names, size = [], 0
  for name, leaf in named_leaves(params).items():
    nbytes = math.prod(leaf.shape) * 4
    if names and size + nbytes > BATCH_BYTES:
      yield names
      names, size = [], 0
    names.append(name)
    size += nbytes
  yield names


def _sums(start: dict, now: dict) -> tuple[jax.Array, jax.Array]:
  """<D average, D weights> and <D weights, D weights> of some leaves, float32."""
  change = lambda kind: jax.tree.map(
      lambda new, old: new.astype(jnp.float32) - old.astype(new.dtype).astype(jnp.float32),
      now[kind], start[kind])
  weights, average = change("params"), change("ema")
  dot = lambda a, b: functools.reduce(operator.add, [jnp.sum(a[name] * b[name]) for name in a])
  return dot(average, weights), dot(weights, weights)
