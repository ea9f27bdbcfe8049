"""A training run from its first step, or its newest checkpoint, to its last.

WORKDIR/config.json       the config, packages and devices of the newest start
WORKDIR/metrics.jsonl     a line every train.log_every steps; tensorboard/ has the same
WORKDIR/checkpoints/STEP  see `training.run.checkpoints`
WORKDIR/stage_start/STEP  see `training.run.stage_start`
WORKDIR/previews/         see `training.monitor.previews`
WORKDIR/model/            the average of the weights as a model folder, once the run has ended
"""

import contextlib
import dataclasses
import pathlib

from absl import logging
import jax

from emv3_jax import sharding
from emv3_jax.errors import InputError
from emv3_jax.io.atomic import write_json
from emv3_jax.runtime import processes
from emv3_jax.training import curriculum
from emv3_jax.training.input.prefetch import Prefetcher
from emv3_jax.training.input.sources import Need, Sources
from emv3_jax.training.monitor import metrics
from emv3_jax.training.monitor.divergence import diverged
from emv3_jax.training.monitor.metrics import Row
from emv3_jax.training.monitor.previews import Previews
from emv3_jax.training.monitor.profiling import Profile
from emv3_jax.training.monitor.throughput import RUNNING, Throughput
from emv3_jax.training.run import run_config
from emv3_jax.training.run.checkpoints import FOLDER, Checkpoints
from emv3_jax.training.run.export import check_components, export_model
from emv3_jax.training.run.initialization import initial_params
from emv3_jax.training.run.lock import locked
from emv3_jax.training.run.preemption import Preemption
from emv3_jax.training.run.stage_start import StageStart
from emv3_jax.training.settings import Config
from emv3_jax.training.update import ema
from emv3_jax.training.update.programs import TrainPrograms
from emv3_jax.training.update.state import State

MODEL = "model"  # in the run's folder


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended.

  Attributes:
    step: number of steps done.
    stopped: whether that was before its last step: it was asked to, or a dataset is not there yet.
    missing: that dataset.
  """

  step: int
  stopped: bool
  missing: Need | None = None


class Run:
  """A run in a folder, from start to end; see `train`."""

  def __init__(self, config: Config, workdir: pathlib.Path, throughput: Throughput,
               programs: TrainPrograms | None):
    self.config, self.workdir, self.throughput = config, workdir, throughput
    check_components(config)
    self.sources = Sources(config)
    self.programs = programs or TrainPrograms(config)
    sharding.check_batch(self.programs.mesh, config.train.batch)
    self.previews = (Previews(config, self.programs, workdir) if config.train.preview_every
                     else None)
    self.description = run_config.describe(config, self.sources.digests())
    self.empty_text: jax.Array | None = None  # of the stages that are run
    self.stage_start = StageStart(workdir, self.programs)
    self.share: float | None = None  # of the average, at the end of the stage that a line is due of
    self._called: set[tuple] = set()
    self.pending = metrics.Pending()
    self.rows: list[Row] = []  # since the last line
    self.due: int | None = None  # step that a line is due of

  def missing(self, step: int) -> Need | None:
    """A dataset that the stage of `step` needs and that is not there; every process calls this.

    What has appeared since the run began is opened and checked.

    Raises:
      InputError: one that is there cannot be used.
    """
    index = curriculum.stage_position(self.programs.stages, step).index
    return self._missing(index)

  def _missing(self, index: int) -> Need | None:
    found = processes.together(lambda: self.sources.missing(index))
    if processes.anywhere(found is not None):  # perhaps on another host only
      return found or self.sources.needs(index)[-1]
    return None

  def ready_until(self, step: int) -> int:
    """The step before which all datasets are there, from a step on whose are."""
    stages = self.programs.stages
    firsts = curriculum.first_steps(stages)
    for index in range(curriculum.stage_position(stages, step).index + 1, len(stages)):
      if firsts[index] < self.config.last_step and self._missing(index):
        return firsts[index]
    return self.config.last_step

  def batches(self, step: int) -> Prefetcher:
    """Those from `step` on, as far as their datasets are there; `missing` said that it is so."""
    index = curriculum.stage_position(self.programs.stages, step).index
    end = self.ready_until(step)
    self.description["datasets"] = self.sources.digests()  # for the checkpoints from here on
    self.empty_text = sharding.replicate(self.sources.empty_text(index), self.programs.mesh)
    return Prefetcher(self.config, self.sources, self.programs.batch_sharding, step, end)

  def start(self, checkpoints: Checkpoints) -> tuple[State, int]:
    """The state to begin with, and the number of steps that it has behind it."""
    step = checkpoints.latest
    if step is None:
      programs = self.programs
      return programs.initial_state(initial_params(self.config, programs.network, programs.mesh)), 0
    state, self.rows = checkpoints.load(step, self.programs.abstract_state(step))
    logging.info("Going on from %s.", checkpoints.folder / str(step))
    return state, step

  def step(self, state: State, step: int, batches: Prefetcher) -> State:
    """One step; its metrics are read later."""
    batch = batches.take(step)
    state = self.programs.begin_stage(state, step)
    if step == curriculum.stage_position(self.programs.stages, step).first_step:
      with self.throughput.paused():
        self._begin_stage(state, step)
    program = self.programs.train_step_at(step)
    shape = batch.batch.latents.shape
    known = (program, shape) in self._called  # a first call places constants
    self._called.add((program, shape))
    with jax.transfer_guard("disallow" if known else "allow"):
      state, told = program(state, batch.batch, self.empty_text, batch.positives)
    self.pending.add(step + 1, program.kind, told)
    self.pending.wait(RUNNING)
    self.throughput.count(step, shape, batches.stalled)
    return state

  def _begin_stage(self, state: State, step: int) -> None:
    """Keeps what a stage starts with; warns of negatives that other weights made than that average."""
    position = curriculum.stage_position(self.programs.stages, step)
    self.stage_start.keep(step, state, position.stage)
    made_by = self.sources.made_by(position.index)
    if made_by and processes.is_first() and made_by != self.stage_start.digest(position.first_step):
      logging.warning(
          "The negatives of stages.%d (%r) in %s were sampled from other weights (%s) than the average "
          "that the stage starts with; what this model does wrong may be something else.",
          position.index, position.stage.name, position.stage.negatives, made_by)

  def after(self, step: int, state: State) -> None:
    """After `step` steps: whether a line is due, and at a stage's end what the average holds of it."""
    ended = step in curriculum.first_steps(self.programs.stages)[1:]
    self.due = step if ended or _due(step, self.config.train.log_every) else None
    if not ended:
      return
    position = curriculum.stage_position(self.programs.stages, step - 1)
    with self.throughput.paused():
      self.share = self.stage_start.share(position.first_step, state)
    if self.share is not None and self.share < ema.MIN_SHARE and ema.must_follow(self.programs.stages,
                                                                       position.index):
      logging.warning(
          "The average holds %.2f of what stages.%d (%r) changed, less than %.2f: too little of it "
          "will ship. Lower its ema_decay, or leave it to the rule of its kind.", self.share,
          position.index, position.stage.name, ema.MIN_SHARE)

  def read_metrics(self, last: int) -> None:
    """Reads the metrics of steps up to `last`.

    Raises:
      Diverged: after one of them training cannot go on.
    """
    for row in self.pending.read(last):
      self.rows.append(row)
      fault = row.fault(self.config.train.max_loss)
      if fault:
        raise diverged(row, fault, self.sources, self.workdir)

  def report(self, writer: metrics.Writer | None) -> None:
    """Writes the line that is due, if one is, about the steps since the line before it."""
    if self.due is None:
      return
    self.read_metrics(self.due)
    rows, self.rows, self.due = self.rows, [], None
    last = rows[-1]
    stage = curriculum.stage_position(self.programs.stages, last.step - 1).stage.name
    told = {"step": last.step, "stage": stage, "kind": last.kind, **metrics.line(rows),
            **self.throughput.read()}
    if self.share is not None:
      told["ema_share"], self.share = self.share, None
      logging.info("The average holds %.3f of what stage %s changed.", told["ema_share"], stage)
    if writer is not None:
      writer.write(told)
      pace = f", {told['seconds_per_step']:.2f} s a step" if "seconds_per_step" in told else ""
      logging.info("Step %d of %d, %s: loss %.4f%s.", last.step, self.config.last_step, stage,
                   told["loss"], pace)

  def keep(self, checkpoints: Checkpoints, step: int, state: State, writer: metrics.Writer | None,
           stopped: bool) -> None:
    """After `step` steps: a checkpoint and previews, where they are due."""
    train = self.config.train
    if stopped or step == self.config.last_step or _due(step, train.checkpoint_every):
      self.report(writer)
      self.save(checkpoints, step, state)
    if _due(step, train.preview_every):
      with self.throughput.paused():
        self.previews.make(step, state["ema"], writer)

  def save(self, checkpoints: Checkpoints, step: int, state: State) -> None:
    """Starts to write a checkpoint, once it is known that its state is sound, unless it is there."""
    if checkpoints.newest == step:
      return
    self.read_metrics(step)
    with self.throughput.paused():
      checkpoints.wait()
      if checkpoints.latest is not None:
        stages = self.programs.stages
        self.stage_start.forget_before(curriculum.stage_position(stages, checkpoints.latest).first_step)
      checkpoints.save(step, state, self.rows)


def train(config: Config, workdir: pathlib.Path, *, throughput: Throughput | None = None,
          profile: tuple[int, int] | None = None, programs: TrainPrograms | None = None) -> Outcome:
  """Trains up to `config.last_step`, or until asked to stop; every process of the run calls it.

  Args:
    config: the run's.
    workdir: its folder; where it holds checkpoints, the run goes on from the newest.
    throughput: counts time; None takes one that knows nothing of the devices.
    profile: writes WORKDIR/profile about the steps from the first up to the second.
    programs: of the same schedule and network; None makes them.

  Raises:
    InputError: dataset, checkpoint, mesh, disk or folder cannot be used; says what to do.
    Diverged: loss or gradients went wrong; the batch is in WORKDIR/diverged_STEP.json.
  """
  with Preemption() as stop, locked(workdir):
    run = processes.together(lambda: Run(config, workdir, throughput or Throughput(), programs))
    with Checkpoints(workdir, config, run.description) as checkpoints:
      first = checkpoints.latest
      if first is not None:
        processes.together(lambda: checkpoints.check(first))
      missing = None if (first or 0) >= config.last_step else run.missing(first or 0)
      if missing and first is not None:
        return _waiting(config, first, missing)
      if missing and not missing.negative:  # nothing was done that could go on: a wrong path
        raise InputError(f"{str(missing).capitalize()}, where there is no dataset.\nMake one with python -m "
                         f"emv3_jax.preparation --out={missing.folder} (docs/data.md), or correct "
                         "--config.data.")
      state, first = run.start(checkpoints)
      if processes.is_first():
        write_json(workdir / "config.json", run.description)
      if first >= config.last_step:
        logging.info("Nothing to do: %s is at step %d, the run ends at step %d.", workdir, first,
                     config.last_step)
        export_model(config, state["ema"], first, workdir / MODEL)  # it may have been killed there
        return Outcome(first, False)
      step, stopped = first, stop.reached(first)
      with _writer(workdir, first) as writer, Profile(profile, workdir / "profile") as traced:
        while step < config.last_step and not stopped and not missing:
          with run.batches(step) as batches:
            while step < batches.end and not stopped:
              traced.at(step)
              state = run.step(state, step, batches)
              step += 1
              run.report(writer)  # while the step runs, about those before it
              run.after(step, state)
              stopped = stop.reached(step)
              run.keep(checkpoints, step, state, writer, stopped)
          missing = None if step == config.last_step or stopped else run.missing(step)
        if missing:  # with the weights that its negatives are to be sampled from
          run.report(writer)
          run.save(checkpoints, step, state)
        checkpoints.wait()
      if missing:
        return _waiting(config, step, missing)
      if step == config.last_step:
        export_model(config, state["ema"], step, workdir / MODEL)
        if step >= curriculum.first_steps(run.programs.stages)[-1]:
          run.stage_start.remove()
      return Outcome(step, step < config.last_step)


def _waiting(config: Config, step: int, missing: Need) -> Outcome:
  logging.warning("Stopped at step %d of %d: %s, where there is no dataset yet. Once there is, the "
                  "same command goes on.", step, config.last_step, missing)
  return Outcome(step, True, missing)


def export(config: Config, workdir: pathlib.Path, folder: pathlib.Path | None = None,
           programs: TrainPrograms | None = None) -> None:
  """Writes the average of the weights of the newest checkpoint as a model folder.

  Args:
    config: the run's.
    workdir: its folder; a run may be at work there.
    folder: the model folder; None takes WORKDIR/model.
    programs: as of `train`.

  Raises:
    InputError: there is no checkpoint, it is of another config, or the folder cannot be written.
  """
  if not (workdir / FOLDER).is_dir():
    raise InputError(f"{workdir} holds no checkpoints; give the --workdir of a run.")
  check_components(config)
  programs = programs or TrainPrograms(config)
  description = run_config.describe(config, {})  # no dataset matters, and none need be there
  with Checkpoints(workdir, config, description, writing=False) as checkpoints:
    step = checkpoints.latest
    if step is None:
      raise InputError(f"{workdir} holds no whole checkpoint yet.")
    average = checkpoints.load_average(step, programs.abstract_state(step)["ema"])
  export_model(config, average, step, folder or workdir / MODEL)


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def _writer(workdir: pathlib.Path, step: int):
  """Process 0 writes metrics."""
  if processes.is_first():
    return metrics.Writer(workdir, step)
  return contextlib.nullcontext()
