"""The compiled programs of a training run on one mesh: first state, start of a stage, step.

  programs = TrainPrograms(config, make_mesh(config.mesh))
  state = programs.initial_state(initial_params(config, programs.network, programs.mesh))
  for step in range(first, config.last_step):
    state = programs.begin_stage(state, step)            # does something where a stage begins
    train_step = programs.train_step_at(step)            # compiled once for each shape of batches
    state, metrics = train_step(state, batch, empty_text)   # an ndpo step's batch holds negatives

`first` is 0, or the step of a checkpoint. What is restored has the shapes and shardings of
`programs.abstract_state(first)`: the state as step first - 1 left it, before `begin_stage`. So
stopping and resuming at the boundary of two stages is like going on.

Stages of the same kind and trained parameters share a step: learning rates are looked up inside.
"""

import functools

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from emv3_jax import sharding
from emv3_jax.arrays import AnyArray
from emv3_jax.attention import backends
from emv3_jax.errors import InputError
from emv3_jax.models.network import Params
from emv3_jax.sharding import mesh as mesh_lib
from emv3_jax.training import curriculum
from emv3_jax.training.batch import Batch
from emv3_jax.training.curriculum import Kind, Stage
from emv3_jax.training.objectives.forward import Forward
from emv3_jax.training.objectives.losses import Batches
from emv3_jax.training.settings import Config
from emv3_jax.training.update import state as state_lib
from emv3_jax.training.update.optimizer import make_optimizer
from emv3_jax.training.update.state import State
from emv3_jax.training.update.step import make_train_step


class TrainPrograms:
  """The programs of a run; each is compiled when it is first called.

  Args:
    config: the run's.
    mesh: what to run on; None makes the config's.
    platform: cpu, gpu or tpu, if that is not where this process runs.
    compiler_options: for XLA, of all programs.

  Attributes:
    mesh, stages, forward, network, optimizer: of the run.
    jit: `jax.jit` with the run's options, donating the first argument.

  Raises:
    InputError: the network does not divide over the mesh, or an unknown attention backend.
  """

  def __init__(self, config: Config, mesh: Mesh | None = None, platform: str | None = None,
               compiler_options: dict | None = None):
    self.config = config
    self.mesh = sharding.make_mesh(config.mesh) if mesh is None else mesh
    self.stages = config.all_stages()
    self.forward = Forward(sharding.on_mesh(
        config.model.transformer, self.mesh, precision=config.precision.transformer,
        attention=config.mesh.attention, local=backends.select(config.train.attention, platform),
        remat=config.train.remat))
    self.network = self.forward.network
    self.optimizer = make_optimizer(config.optimizer)
    self.jit = functools.partial(jax.jit, donate_argnums=0, compiler_options=compiler_options)
    self._state_options = self.optimizer, config.precision.transformer, config.ndpo.reading
    self._train_steps: dict[tuple, TrainStep] = {}

  @property
  def batch_sharding(self) -> NamedSharding:
    """Of every array of a batch: its leading axis over data and fsdp."""
    return NamedSharding(self.mesh, mesh_lib.spec("batch"))

  def abstract_state(self, step: int) -> State:
    """Shapes, dtypes and shardings of the state after `step` steps, before `begin_stage`."""
    stage = curriculum.stage_position(self.stages, max(step - 1, 0)).stage
    return state_lib.abstract(self.network.abstract, self.mesh, stage, *self._state_options)

  def initial_state(self, params: Params) -> State:
    """The state before the first step. Takes `params` over: their arrays are donated."""
    first = self.stages[0]
    make = self.jit(lambda params: state_lib.initial_state(params, first, *self._state_options),
                    out_shardings=self._shardings(first))
    return make(sharding.shard_params(params, self.mesh))

  def begin_stage(self, state: State, step: int) -> State:
    """Begins the stage whose first step is `step`, if one begins there; donates the state."""
    position = curriculum.stage_position(self.stages, step)
    if not position.index or not position.is_first:
      return state
    previous = self.stages[position.index - 1]
    begin = self.jit(
        lambda state: state_lib.begin_stage(state, position.stage, previous, *self._state_options),
        out_shardings=self._shardings(position.stage))
    return begin(state)

  def train_step_at(self, step: int) -> "TrainStep":
    """The program of a step of the run; the same object for steps that do the same."""
    position = curriculum.stage_position(self.stages, step)
    kind, stage = position.kind, position.stage
    key = kind, stage.train, state_lib.has_reference(stage, self.config.ndpo.reading)
    if key not in self._train_steps:
      function = make_train_step(self.config, self.forward, self.optimizer, kind, stage.train)
      replicated = NamedSharding(self.mesh, PartitionSpec())
      compiled = self.jit(function, out_shardings=(self._shardings(stage), replicated))
      self._train_steps[key] = TrainStep(
          compiled, kind, self.forward, self.config.train.accumulate,
          needs_positives=kind == "dpo" or kind == "ndpo" and self.config.ndpo.sft_weight > 0)
    return self._train_steps[key]

  def _shardings(self, stage: Stage) -> State:
    return state_lib.shardings(self.network.abstract, self.mesh, stage, *self._state_options)


class TrainStep:
  """One kind of step, compiled when it is first called with a shape.

  Args:
    compiled: `training.update.step.make_train_step`, jitted.
    kind: sft, ndpo or dpo.
    forward: gives mesh and RoPE tables.
    accumulate: number of parts that a batch is split into.
    needs_positives: whether it is called with positives too.

  Attributes:
    kind, needs_positives: as given.
  """

  def __init__(self, compiled, kind: Kind, forward: Forward, accumulate: int,
               needs_positives: bool):
    self.kind: Kind = kind
    self.needs_positives = needs_positives
    self._step, self._forward, self._accumulate = compiled, forward, accumulate
    self._ropes: dict[tuple, tuple] = {}

  def __call__(self, state: State, batch: Batch, empty_text: AnyArray,
               positives: Batch | None = None) -> tuple[State, dict[str, jax.Array]]:
    """One step.

    Args:
      state: is donated: its arrays are gone afterwards.
      batch: of the data; of ndpo and dpo: negatives.
      empty_text: [m, text_dim] umT5 states of the empty string.
      positives: data to learn beside the negatives (ndpo with an sft weight), or the clips that
        the negatives are paired with, row by row (dpo).

    Returns:
      The next state, and metrics: `loss`, `grad_norm` before clipping, `update_norm` of what was
      taken off the weights, `learning_rate`, `ema_decay`, and by example what the objective gives
      (`training.objectives.losses`). They are whole on every device, and reading them is what
      waits for the step.

    Raises:
      InputError: a batch that does not divide over the mesh, or positions that do not.
      ValueError: positives that are missing or not wanted.
    """
    batches = self._batches(batch, positives)
    return self._step(state, batches, empty_text, self._rope(batch.latents.shape))

  def trace(self, state: State, batch: Batch, empty_text, positives: Batch | None = None):
    """The step for shapes, with shardings, of arrays and devices that need not be there."""
    batches = self._batches(batch, positives)
    rope = [jax.ShapeDtypeStruct(table.shape, table.dtype, sharding=self._rope_sharding)
            for table in self._forward.rope(batch.latents.shape)]
    return self._step.trace(state, batches, empty_text, tuple(rope))

  def _batches(self, batch: Batch, positives: Batch | None) -> Batches:
    if (positives is not None) != self.needs_positives:
      raise ValueError(f"A step of {self.kind} {'needs' if self.needs_positives else 'takes no'} "
                       "positives.")
    batches = {"batch": batch} if positives is None else {"batch": batch, "positives": positives}
    mesh, parts = self._forward.mesh, self._accumulate
    for size in (given.latents.shape[0] for given in batches.values()):
      sharding.check_batch(mesh, size)
      if size % (parts * mesh_lib.degree(mesh, "batch")):
        raise InputError(
            f"A batch of {size} over {mesh_lib.describe(mesh, 'batch')} does not divide into "
            f"train.accumulate {parts} parts.")
    return batches

  def _rope(self, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """RoPE tables for latents of `shape`, made once a size."""
    key = tuple(shape[1:4])
    if key not in self._ropes:
      self._ropes[key] = tuple(
          jax.make_array_from_callback(table.shape, self._rope_sharding, table.__getitem__)
          for table in self._forward.rope(shape))
    return self._ropes[key]

  @property
  def _rope_sharding(self) -> NamedSharding:
    return NamedSharding(self._forward.mesh, mesh_lib.spec("length", None))
