"""A training run from its first step, or its newest checkpoint, to its last.

WORKDIR/config.json       the config, packages and devices of the newest start
WORKDIR/metrics.jsonl     a record every train.log_every steps; tensorboard/ has the same, as has wandb/
WORKDIR/end.jsonl         seconds and memory of what came after the last record of a start
WORKDIR/checkpoints/STEP  see `training.run.checkpoints`
WORKDIR/stage_start/STEP  see `training.run.stage_start`
WORKDIR/previews/         see `training.monitor.previews`
WORKDIR/model/            the average of the weights as a model folder, once the run has ended
"""

from collections.abc import Callable
import contextlib
import dataclasses
import pathlib
from typing import Protocol

from absl import logging
import jax

from emv3_jax import sharding
from emv3_jax.errors import InputError
from emv3_jax.io.atomic import write_json
from emv3_jax.models.network import Params
from emv3_jax.runtime import processes
from emv3_jax.training import curriculum
from emv3_jax.training.input.prefetch import Prefetcher
from emv3_jax.training.input.sources import RequiredDataset, Sources
from emv3_jax.training.monitor.metrics import Writer
from emv3_jax.training.monitor.profiling import Profile
from emv3_jax.training.monitor.reporting import Reporter
from emv3_jax.training.monitor.throughput import Throughput
from emv3_jax.training.monitor.wandb_run import WandbRun, import_wandb
from emv3_jax.training.run import run_config
from emv3_jax.training.run.checkpoints import Checkpoints
from emv3_jax.training.run.export import MODEL, check_components, export_model
from emv3_jax.training.run.initialization import describe_origin, initial_params, named_origin
from emv3_jax.training.run.lock import locked
from emv3_jax.training.run.preemption import Preemption
from emv3_jax.training.run.stage_start import StageStart
from emv3_jax.training.settings import Config
from emv3_jax.training.update import ema
from emv3_jax.training.update.programs import TrainPrograms
from emv3_jax.training.update.state import State


class Previews(Protocol):
  """What is made of the average every train.preview_every steps: `monitor.previews.Previews`."""

  def make(self, step: int, average: Params, writer: Writer | None) -> None: ...


MakePreviews = Callable[[Config, TrainPrograms, pathlib.Path], Previews]


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
  missing: RequiredDataset | None = None


class Run:
  """A run in a folder, from start to end; arguments as of `train`."""

  def __init__(self, config: Config, workdir: pathlib.Path, programs: TrainPrograms,
               make_previews: MakePreviews | None, throughput: Throughput):
    self.config, self.programs, self.throughput = config, programs, throughput
    self.stages = programs.stages
    if config.train.wandb and processes.is_first():
      import_wandb()  # where it is not installed that is told before any work
    check_components(config)
    self.sources = Sources(config)
    sharding.check_batch(programs.mesh, config.train.batch)
    self.previews = None
    if config.train.preview_every:
      if make_previews is None:
        raise ValueError("train.preview_every is set; train() needs make_previews.")
      self.previews = make_previews(config, programs, workdir)
    self.description = run_config.describe(config, self.sources.digests())
    self.empty_text: jax.Array | None = None  # umT5 states, as the stages that are run need them
    self.stage_start = StageStart(workdir, programs)
    self.reporter = Reporter(config.train, config.last_step, self.stages, throughput, self.sources,
                             workdir)
    self._called: set[tuple] = set()

  def missing(self, step: int) -> RequiredDataset | None:
    """A dataset that the stage of `step` needs and that is not there; every process calls this.

    What has appeared since the run started is opened and checked.

    Raises:
      InputError: one that is there cannot be used.
    """
    return self._missing(curriculum.stage_position(self.stages, step).index)

  def _missing(self, index: int) -> RequiredDataset | None:
    found = processes.run_on_all(lambda: self.sources.missing(index))
    if processes.any_process(found is not None):  # perhaps on another host only
      return found or self.sources.required(index)[-1]
    return None

  def ready_until(self, step: int) -> int:
    """The step before which all datasets are there, from a step on whose are."""
    firsts = curriculum.first_steps(self.stages)
    for index in range(curriculum.stage_position(self.stages, step).index + 1, len(self.stages)):
      if firsts[index] < self.config.last_step and self._missing(index):
        return firsts[index]
    return self.config.last_step

  def batches(self, step: int) -> Prefetcher:
    """Those from `step` on, as far as their datasets are there; `missing` said that it is so."""
    end, index = self.ready_until(step), curriculum.stage_position(self.stages, step).index
    self.description["datasets"] = self.sources.digests()  # for the checkpoints from here on
    self.empty_text = sharding.replicate(self.sources.empty_text(index), self.programs.mesh)
    return Prefetcher(self.config, self.sources, self.programs.batch_sharding, step, end)

  def initialize(self, checkpoints: Checkpoints) -> tuple[State, int]:
    """The first state, or that of the newest checkpoint, and the number of steps done."""
    step, programs = checkpoints.latest, self.programs
    if step is None:
      origin = processes.run_on_all(lambda: named_origin(self.config))
      params = initial_params(self.config, programs.network, programs.mesh, origin)
      if processes.is_first():
        self.description["start"] = describe_origin(origin, self.config.seed)
      return programs.initial_state(params), 0
    self.description["start"] = checkpoints.check(step).get("start")
    state, self.reporter.rows = checkpoints.load(step, programs.abstract_state(step))
    logging.info("Resuming from %s.", checkpoints.folder / str(step))
    return state, step

  def step(self, state: State, step: int, batches: Prefetcher) -> State:
    """One step; its metrics are read later."""
    stalled = batches.stalled
    batch = batches.take(step)
    self.reporter.seconds.add("data", batches.stalled - stalled)
    state = self.programs.begin_stage(state, step)
    position = curriculum.stage_position(self.stages, step)
    if position.is_first:
      with self.reporter.apart("stage_start"):
        self.save_stage_start(state, position)
    train_step, shape = self.programs.train_step_at(step), batch.batch.latents.shape
    compiled = (train_step, shape) in self._called  # a first call places constants
    self._called.add((train_step, shape))
    with jax.transfer_guard("disallow" if compiled else "allow"):
      assert self.empty_text is not None  # the stage has begun
      state, metrics = train_step(state, batch.batch, self.empty_text, batch.positives)
    self.reporter.add(step + 1, train_step.kind, metrics)
    self.throughput.count(step, shape, batches.stalled)
    return state

  def save_stage_start(self, state: State, position: curriculum.StagePosition) -> None:
    """Saves what a stage starts with; warns where its negatives were not sampled from that average."""
    self.stage_start.save(position.step, state, position.stage)
    made_by = self.sources.made_by(position.index)
    if made_by and processes.is_first() and made_by != self.stage_start.digest(position.step):
      logging.warning(
          "The negatives of stages.%d (%r) in %s were sampled from other weights (%s) than the average "
          "that the stage starts with; what this model does wrong may be something else.",
          position.index, position.stage.name, position.stage.negatives, made_by)

  def after_step(self, step: int, state: State) -> None:
    """After `step` steps: whether a record is due, and at a stage's end what the average holds of it."""
    ended = step in curriculum.first_steps(self.stages)[1:]
    self.reporter.after_step(step, ended)
    if not ended:
      return
    position = curriculum.stage_position(self.stages, step - 1)
    with self.reporter.apart("stage_start"):
      share = self.reporter.ema_share = self.stage_start.share(position.first_step, state)
    if share is not None and share < ema.MIN_SHARE and ema.must_follow(self.stages, position.index):
      logging.warning(
          "The average holds %.2f of what stages.%d (%r) changed, less than %.2f: too little of it "
          "will ship. Lower its ema_decay, or leave it to the rule of its kind.", share,
          position.index, position.stage.name, ema.MIN_SHARE)

  def save_and_preview(self, checkpoints: Checkpoints, step: int, state: State,
                       writer: Writer | None, stopped: bool) -> None:
    """After `step` steps: a checkpoint and previews, where they are due."""
    train = self.config.train
    if stopped or step == self.config.last_step or _due(step, train.checkpoint_every):
      self.reporter.write(writer)
      self.save(checkpoints, step, state)
    if _due(step, train.preview_every):
      assert self.previews is not None  # they are asked for
      with self.reporter.apart("previews"):
        self.previews.make(step, state["ema"], writer)

  def save(self, checkpoints: Checkpoints, step: int, state: State) -> None:
    """Starts to write a checkpoint, after its step's metrics were checked, unless it is there."""
    if checkpoints.newest == step:
      return
    self.reporter.read(step)
    with self.reporter.apart("checkpoint"):
      checkpoints.wait()
      if checkpoints.latest is not None:
        whole = curriculum.stage_position(self.stages, checkpoints.latest)
        self.stage_start.remove_before(whole.first_step)
      checkpoints.save(step, state, self.reporter.rows)


def train(config: Config, workdir: pathlib.Path, programs: TrainPrograms, *,
          make_previews: MakePreviews | None = None, throughput: Throughput | None = None,
          profile: tuple[int, int] | None = None) -> Outcome:
  """Trains up to `config.last_step`, or until asked to stop; every process of the run calls it.

  Args:
    config: the run's.
    workdir: its folder; where it holds checkpoints, the run resumes from the newest.
    programs: of the same schedule and network.
    make_previews: needed where train.preview_every is set, e.g. `monitor.previews.Previews`.
    throughput: counts time; None takes one that knows nothing of the devices.
    profile: writes WORKDIR/profile about the steps from the first up to the second.

  Raises:
    InputError: dataset, checkpoint, mesh, disk or folder cannot be used; says what to do.
    Diverged: loss or gradients went wrong; the batch is in WORKDIR/diverged_STEP.json.
  """
  with Preemption() as preemption, locked(workdir):
    run = processes.run_on_all(
        lambda: Run(config, workdir, programs, make_previews, throughput or Throughput()))
    with Checkpoints(workdir, run.description, config.train.keep,
                     config.train.keep_every) as checkpoints:
      first = checkpoints.latest
      if first is not None:
        processes.run_on_all(lambda step=first: checkpoints.check(step))
      missing = None if (first or 0) >= config.last_step else run.missing(first or 0)
      if missing and first is not None:
        return _stopped_without(missing, config.last_step, first)
      if missing and not missing.negative:  # nothing was done that could be resumed: a wrong path
        raise InputError(f"{str(missing).capitalize()}, where there is no dataset.\nMake one with python -m "
                         f"emv3_jax.preparation --out={missing.folder} (docs/data.md), or correct "
                         "--config.data.")
      state, first = run.initialize(checkpoints)
      if processes.is_first():
        write_json(workdir / "config.json", run.description)
      if first >= config.last_step:
        logging.info("Nothing to do: %s is at step %d, the run ends at step %d.", workdir, first,
                     config.last_step)
        export_model(config, state["ema"], first, workdir / MODEL)  # it may have been killed there
        return Outcome(first, False)
      step, stopped = first, preemption.reached(first)
      with (processes.run_on_all(lambda: _writer(workdir, first, config, run.description)) as writer,
            Profile(profile, workdir / "profile") as profiler):
        while step < config.last_step and not stopped and not missing:
          with run.batches(step) as batches:
            while step < batches.end and not stopped:
              profiler.at(step)
              state = run.step(state, step, batches)
              step += 1
              run.reporter.write(writer)  # while the step runs, about those before it
              run.after_step(step, state)
              stopped = preemption.reached(step)
              run.save_and_preview(checkpoints, step, state, writer, stopped)
          missing = None if step == config.last_step or stopped else run.missing(step)
        if missing:  # with the weights that its negatives are to be sampled from
          run.reporter.write(writer)
          run.save(checkpoints, step, state)
        with run.reporter.apart("checkpoint"):
          checkpoints.wait()
        if step == config.last_step:
          with run.reporter.apart("export"):
            export_model(config, state["ema"], step, workdir / MODEL)
        run.reporter.write_end(writer, step)
      if missing:
        return _stopped_without(missing, config.last_step, step)
      if step == config.last_step >= curriculum.first_steps(run.stages)[-1]:
        run.stage_start.remove()
      return Outcome(step, step < config.last_step)


def _stopped_without(missing: RequiredDataset, last_step: int, step: int) -> Outcome:
  logging.warning("Stopped at step %d of %d: %s, where there is no dataset yet. Once there is, the "
                  "same command goes on.", step, last_step, missing)
  return Outcome(step, True, missing)


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def _writer(workdir: pathlib.Path, step: int, config: Config,
            description: dict) -> contextlib.AbstractContextManager[Writer | None]:
  """Process 0 writes metrics."""
  if not processes.is_first():
    return contextlib.nullcontext()
  wandb = WandbRun(workdir, config.train, description) if config.train.wandb else None
  return Writer(workdir, step, wandb)
