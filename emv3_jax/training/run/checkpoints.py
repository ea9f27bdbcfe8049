"""Checkpoints of a run: WORKDIR/checkpoints/STEP, written by Orbax while the run goes on.

A checkpoint is there whole or not at all. It holds the state, and as its metadata the config, the
datasets' digests, versions, the position in the data and the metrics of a record that is not due yet.
It is restored on any mesh and number of processes.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import os
import pathlib
import shutil
from typing import Any

from absl import logging
import jax
from orbax.checkpoint import v1 as ocp

from emv3_jax.errors import InputError
from emv3_jax.models.network import Params
from emv3_jax.training.monitor.metrics import StepMetrics
from emv3_jax.training.run import run_config
from emv3_jax.training.update.state import State

FOLDER = "checkpoints"
_NAME = "state"


class Checkpoints:
  """The checkpoints of a run; a context manager that waits for the last one.

  Args:
    workdir: the run's folder.
    run: `run_config.describe` of the run, or another description that `check` knows.
    keep: number of newest checkpoints to keep.
    keep_every: checkpoints at multiples of it are kept too; 0 keeps no others.
    check: called with a checkpoint's metadata, `run`, its step and its name before it is loaded;
      raises InputError where the run may not resume from it.
    writing: whether this is the run itself, which also removes what a killed one left unfinished;
      else parts of a state can be loaded.

  Attributes:
    folder: that they lie in.
    run: as given; what the next checkpoint says.
  """

  def __init__(self, workdir: pathlib.Path, run: dict, keep: int, keep_every: int = 0,
               check: Callable[[dict, dict, int, str], None] = run_config.check,
               writing: bool = True):
    self.folder, self.run, self._check = workdir / FOLDER, run, check
    self._saving: int | None = None
    policies = ocp.training.preservation_policies
    kept: list[Any] = [policies.LatestN(keep)]
    if keep_every:
      kept.append(policies.EveryNSteps(keep_every))
    context = ocp.Context()
    context.pytree.loading.partial_load = not writing
    self._checkpointer = ocp.training.Checkpointer(
        os.fspath(self.folder.absolute()), context=context,
        # Orbax's hints name two types of the same checkpoints.
        preservation_policy=policies.AnyPreservationPolicy(kept),  # pyright: ignore[reportArgumentType]
        cleanup_tmp_directories=writing)

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind, *_) -> None:
    # An error is on its way already: one of the last save would hide it.
    with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
      self.wait()
    with contextlib.suppress(Exception):
      self._checkpointer.close()

  @property
  def newest(self) -> int | None:
    """Step of the newest checkpoint, be it still being written."""
    return self.latest if self._saving is None else self._saving

  @property
  def latest(self) -> int | None:
    """Step of the newest whole checkpoint."""
    newest = self._checkpointer.latest
    return None if newest is None else newest.step

  def save(self, step: int, state: State, rows: Sequence[StepMetrics] = ()) -> None:
    """Starts to write the state after `step` steps; it may be donated afterwards.

    Args:
      step: number of steps done.
      state: on the mesh.
      rows: metrics of steps that no record was written of.

    Raises:
      InputError: this one or the one before cannot be written, most likely on a full disk.
    """
    self.wait()
    with self._checked_writing(step):
      self._check_space(state)
      self._saving = step
      self._checkpointer.save_async(step, state, force=True, custom_metadata={
          **self.run, "data": {"next_step": step},
          "rows": [dataclasses.asdict(row) for row in rows]})

  def wait(self) -> None:
    """Waits for the checkpoint that is being written; raises as `save`."""
    if self._saving is not None:
      step, self._saving = self._saving, None
      with self._checked_writing(step):
        self._checkpointer.wait()
      logging.info("Wrote %s.", self.folder / str(step))

  def load(self, step: int, abstract: State) -> tuple[State, list[StepMetrics]]:
    """The state after `step` steps, and what else `save` was given.

    Args:
      step: of a checkpoint.
      abstract: shapes, dtypes and shardings.

    Raises:
      InputError: it is of a run with another config or dataset, or cannot be read.
    """
    state, content = self._read(step, abstract)
    return state, [StepMetrics(**row) for row in content.get("rows", ())]

  def check(self, step: int) -> Any:
    """What else `save` was given, once it is known that the run may go on from it; raises as `load`."""
    where = self.folder / str(step)
    with self._readable(step):
      content = self._content(step)
      self._check(content, self.run, step, f"Checkpoint {where}")
      return content

  def _content(self, step: int) -> Any:
    return self._checkpointer.metadata(step).custom_metadata or {}

  def _read(self, step: int, abstract: State) -> tuple[State, dict]:
    content = self.check(step)
    with self._readable(step):
      state = self._checkpointer.load(step, self._as_stored(step, abstract))
      return {name: state[name] for name in abstract}, content

  def _as_stored(self, step: int, abstract: State) -> State:
    """With the reference that states had up to 0.1 though `absolute` did not use it."""
    stored = self._checkpointer.metadata(step).metadata or {}
    if "params" not in abstract or "reference" not in stored.keys() - abstract.keys():
      return abstract
    reference = jax.tree.map(
        lambda leaf, like: jax.ShapeDtypeStruct(like.shape, leaf.dtype, sharding=like.sharding),
        stored["reference"], abstract["params"])
    return {**abstract, "reference": reference}

  @contextlib.contextmanager
  def _readable(self, step: int):
    try:
      yield
    except InputError:
      raise
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise InputError(f"Checkpoint {self.folder / str(step)} cannot be read: {_first_line(error)}.\n"
                       "Remove that folder to go on from the checkpoint before it.") from error

  def load_average(self, step: int, abstract: Params) -> Params:
    """The average of the weights after `step` steps, alone; raises as `load`."""
    return self._read(step, {"ema": abstract})[0]["ema"]

  def stored_average(self, step: int) -> Any:
    """Tree of the average after `step` steps, with shapes and dtypes; raises as `load`."""
    with self._readable(step):
      return self._checkpointer.metadata(step).metadata["ema"]

  def _check_space(self, state: State) -> None:
    """Refuses at once what would fail in the middle."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) // jax.process_count()
    free = shutil.disk_usage(self.folder).free
    if free < needed:
      raise OSError(f"it needs {needed:,} bytes, the disk has {free:,} free")

  @contextlib.contextmanager
  def _checked_writing(self, step: int):
    """Says which checkpoint is still there when one cannot be written."""
    try:
      yield
    except (OSError, ValueError, RuntimeError) as error:
      self._saving = None
      kept = "there is none before it" if self.latest is None else (
          f"{self.folder / str(self.latest)} is whole, the same command goes on from it")
      raise InputError(f"Checkpoint {self.folder / str(step)} could not be written "
                       f"({_first_line(error)}); {kept}.\nFree the disk first.") from error


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")
