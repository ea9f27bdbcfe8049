"""The compiled programs of a training run on one mesh: start, begin a stage, step.

A step is one function of state and batch for each kind of step (sft, ndpo, dpo) and for each set of
trained parameters; stages of the same kind share it, their learning rates are looked up inside. It
compiles once for each shape of batches.
"""

import functools

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from emv3_jax import sharding
from emv3_jax.errors import InputError
from emv3_jax.models.network import Params
from emv3_jax.sharding import mesh as mesh_lib
from emv3_jax.training import curriculum
from emv3_jax.training.curriculum import Kind, Stage, Trained
from emv3_jax.training.objectives import ndpo
from emv3_jax.training.objectives.forward import FIELDS, OPTIONAL, Batch, Forward
from emv3_jax.training.settings import Config
from emv3_jax.training.update import state as state_lib
from emv3_jax.training.update.optimizer import make_optimizer
from emv3_jax.training.update.state import State
from emv3_jax.training.update.step import StepFunction


class Programs:
  """See `training.settings` for how a loop uses it.

  Args:
    config: the run's.
    mesh: what to run on; None makes the config's.
    platform: cpu, gpu or tpu, if that is not where this process runs.
    compiler_options: for XLA, of all programs.

  Raises:
    InputError: the network does not divide over the mesh, or an unknown attention backend.
  """

  def __init__(self, config: Config, mesh: Mesh | None = None, platform: str | None = None,
               compiler_options: dict | None = None):
    self.config = config
    self.mesh = sharding.make_mesh(config.mesh) if mesh is None else mesh
    self.stages = config.all_stages()
    self.forward = Forward(config, self.mesh, platform)
    self.network = self.forward.network
    self.optimizer = make_optimizer(config.optimizer)
    self._run = self.optimizer, config.precision.transformer, config.ndpo.reading
    self.jit = functools.partial(jax.jit, donate_argnums=0, compiler_options=compiler_options)
    self._programs: dict[tuple, Program] = {}

  @property
  def batch_sharding(self) -> NamedSharding:
    """Of every array of a batch: its leading axis over data and fsdp."""
    return NamedSharding(self.mesh, mesh_lib.spec("batch"))

  def abstract_state(self, step: int) -> State:
    """Shapes, dtypes and shardings of the state after `step` steps, before `enter`."""
    stage = curriculum.stage_position(self.stages, max(step - 1, 0)).stage
    return state_lib.abstract(self.network.abstract, self.mesh, stage, *self._run)

  def new_state(self, params: Params) -> State:
    """The state before the first step. Takes `params` over: their arrays are donated."""
    first = self.stages[0]
    make = self.jit(lambda params: state_lib.fresh(params, first, *self._run),
                    out_shardings=self._shardings(first))
    return make(sharding.place(params, self.mesh))

  def enter(self, state: State, step: int) -> State:
    """Begins the stage whose first step is `step`, if one begins there; donates the state."""
    place = curriculum.stage_position(self.stages, step)
    if not place.index or step != place.first:
      return state
    previous = self.stages[place.index - 1]
    begin = self.jit(
        lambda state: state_lib.begin_stage(state, place.stage, previous, *self._run),
        out_shardings=self._shardings(place.stage))
    return begin(state)

  def program_at(self, step: int) -> "Program":
    """The program of a step of the run; the same object for steps that do the same."""
    place = curriculum.stage_position(self.stages, step)
    kind = place.stage.kind_of(step - place.first)
    key = kind, place.stage.train, ndpo.has_reference(place.stage, self.config.ndpo.reading)
    if key not in self._programs:
      shardings = self._shardings(place.stage)
      self._programs[key] = Program(self, kind, place.stage.train, shardings)
    return self._programs[key]

  def _shardings(self, stage: Stage) -> State:
    return state_lib.shardings(self.network.abstract, self.mesh, stage, *self._run)


class Program:
  """One kind of step, compiled when it is first called with a shape.

  Attributes:
    kind: sft, ndpo or dpo.
    needs_positives: whether it is called with positives too.
  """

  def __init__(self, programs: Programs, kind: Kind, trained: Trained, shardings: State):
    self.kind = kind
    self.needs_positives = kind == "dpo" or (
        kind == "ndpo" and programs.config.ndpo.sft_weight > 0)
    self._programs = programs
    function = StepFunction(programs.forward, programs.stages, programs.optimizer, kind, trained)
    whole = NamedSharding(programs.mesh, PartitionSpec())
    self._step = programs.jit(function, out_shardings=(shardings, whole))
    self._ropes: dict[tuple, tuple] = {}

  def __call__(self, state: State, batch: Batch, empty_text: jax.Array,
               positives: Batch | None = None) -> tuple[State, dict[str, jax.Array]]:
    """One step.

    Args:
      state: is donated: its arrays are gone afterwards.
      batch: see `training.objectives.forward`; further entries are left out. Of ndpo and dpo: negatives.
      empty_text: [m, text_dim] umT5 states of the empty string.
      positives: data to learn beside the negatives (ndpo with an sft weight), or the clips that
        the negatives are paired with, row by row (dpo).

    Returns:
      The next state, and metrics: `loss`, `grad_norm` before clipping, `update_norm` of what was
      taken off the weights, `learning_rate`, `ema_decay`, and by example what the objective gives
      (`training.objectives.sft`, `training.objectives.ndpo`). They are whole on every device, and reading them is what
      waits for the step.

    Raises:
      InputError: a batch that does not divide over the mesh, or positions that do not.
      ValueError: a field that is missing, or positives that are missing or not wanted.
    """
    batches = self._batches(batch, positives)
    return self._step(state, batches, empty_text, self._rope(batch["latents"].shape))

  def trace(self, state: State, batch: Batch, empty_text, positives: Batch | None = None):
    """The step for shapes, with shardings, of arrays and devices that need not be there."""
    batches = self._batches(batch, positives)
    rope = [jax.ShapeDtypeStruct(table.shape, table.dtype, sharding=self._rope_sharding)
            for table in self._programs.forward.rope(batch["latents"].shape)]
    return self._step.trace(state, batches, empty_text, tuple(rope))

  def compiled(self) -> int:
    """Number of shapes that it was compiled for."""
    return self._step._cache_size()

  def _batches(self, batch: Batch, positives: Batch | None) -> dict[str, Batch]:
    if (positives is not None) != self.needs_positives:
      raise ValueError(f"A step of {self.kind} {'needs' if self.needs_positives else 'takes no'} "
                       "positives.")
    if positives is None:
      return {"batch": self._fields(batch)}
    return {"batch": self._fields(batch), "positives": self._fields(positives)}

  def _fields(self, batch: Batch) -> Batch:
    missing = [name for name in FIELDS if name not in batch]
    if missing:
      raise ValueError(f"A batch has no {', '.join(missing)}.")
    config, mesh = self._programs.config, self._programs.mesh
    size, parts = batch["latents"].shape[0], config.train.accumulate
    sharding.check_batch(mesh, size)
    if size % (parts * mesh_lib.degree(mesh, "batch")):
      raise InputError(
          f"A batch of {size} over {mesh_lib.describe(mesh, 'batch')} does not divide into "
          f"train.accumulate {parts} parts.")
    return {name: batch[name] for name in (*FIELDS, *OPTIONAL) if name in batch}

  def _rope(self, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """RoPE tables for latents of `shape`, made once a size."""
    key = tuple(shape[1:4])
    if key not in self._ropes:
      self._ropes[key] = tuple(
          jax.make_array_from_callback(table.shape, self._rope_sharding, table.__getitem__)
          for table in self._programs.forward.rope(shape))
    return self._ropes[key]

  @property
  def _rope_sharding(self) -> NamedSharding:
    return NamedSharding(self._programs.mesh, mesh_lib.spec("length", None))
