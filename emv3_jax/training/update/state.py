"""The state of a run: a plain dict of arrays, split over the mesh like the parameters.

    step         int32, number of steps done
    params       the transformer's parameters
    ema          their moving average, float32
    opt_state    of the parameters that the stage trains
    calibration  of negative DPO's reading `absolute`
    reference    the frozen model, in stages that measure against it (`has_reference`)

All of it goes into a checkpoint, and with the seed it determines everything that follows.
"""

import re

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import optax

from emv3_jax.models.network import Params, named_leaves, nested, param_name
from emv3_jax.models.precision import Precision
from emv3_jax.sharding import param_shardings
from emv3_jax.training.curriculum import Stage, Trained
from emv3_jax.training.objectives.losses import init_calibration
from emv3_jax.training.settings import Reading
from emv3_jax.training.update import ema

State = dict

# What the network reads in float32 whatever it computes in; everything else it casts.
_FLOAT32 = re.compile(r"time_(embedding|projection)\..*|.*\bmodulation|.*\bnorm\w*\.(scale|bias)")


def initial_state(params: Params, stage: Stage, optimizer: optax.GradientTransformation,
                  precision: Precision, reading: Reading) -> State:
  """The state before the first step, in the run's first stage.

  Args:
    params: of the network.
    stage: the first one.
    optimizer: of the run.
    precision: of the network.
    reading: of negative DPO.
  """
  params = jax.tree.map(lambda leaf: leaf.astype(precision.param_dtype), params)
  state = {"step": jnp.zeros((), jnp.int32), "params": params, "ema": ema.init(params)}
  return _stage_state(state, stage, precision, reading, _moments(params, stage.train, optimizer))


def begin_stage(state: State, stage: Stage, previous: Stage,
                optimizer: optax.GradientTransformation, precision: Precision,
                reading: Reading) -> State:
  """The state at the first step of a stage, from that at the end of the previous one.

  A stage that starts from the average has fresh moments. One that starts from the online weights
  keeps its moments too, if it trains the same parameters. Negative DPO's frozen reference is the
  average in either case: what its negatives were sampled from.
  """
  params, moments = state["params"], state["opt_state"]
  if stage.start == "ema":
    params = jax.tree.map(lambda average, leaf: jnp.array(average, leaf.dtype, copy=True),
                          state["ema"], params)
  if stage.start == "ema" or stage.train != previous.train:
    moments = _moments(params, stage.train, optimizer)
  return _stage_state({**state, "params": params}, stage, precision, reading, moments)


def _stage_state(state: State, stage: Stage, precision: Precision, reading: Reading,
                 moments) -> State:
  """With the moments, calibration and reference of a stage that begins."""
  new = {**state, "opt_state": moments, "calibration": init_calibration()}
  new.pop("reference", None)
  if has_reference(stage, reading):
    new["reference"] = reference_params(new["ema"], precision)
  return new


def _moments(params: Params, trained: Trained, optimizer: optax.GradientTransformation):
  return optimizer.init(split_params(params, trained)[0])


def has_reference(stage: Stage, reading: Reading) -> bool:
  """Whether a stage measures against the frozen model; `absolute` does not."""
  return stage.kind == "dpo" or stage.kind == "ndpo" and reading == "reference"


def reference_params(params: Params, precision: Precision) -> Params:
  """The frozen model: `params` in the dtypes that the network computes with.

  So it predicts the same numbers as `params` do, at half the memory in mixed precision.
  """
  def leaf(path, value):
    wide = _FLOAT32.fullmatch(param_name(path))
    return value.astype(precision.param_dtype if wide else precision.compute_dtype)

  return jax.tree_util.tree_map_with_path(leaf, params)


def is_audio(name: str) -> bool:
  """Whether a parameter, by dotted name, belongs to the audio path."""
  return name.startswith("audio_projection.") or any(
      part.endswith("_audio") for part in name.split("."))


def split_params(params: Params, trained: Trained) -> tuple[Params, Params]:
  """Parameters that a stage trains and those that it freezes, as two nested dicts.

  The frozen ones cost no gradient and no optimiser state.
  """
  named = named_leaves(params)
  chosen = {name: leaf for name, leaf in named.items() if trained == "all" or is_audio(name)}
  return nested(chosen), nested({name: named[name] for name in named.keys() - chosen.keys()})


def merge_params(trained: Params, frozen: Params) -> Params:
  """Inverse of `split_params`."""
  return nested(named_leaves(trained) | named_leaves(frozen))


def shardings(abstract: Params, mesh: Mesh, stage: Stage,
              optimizer: optax.GradientTransformation, precision: Precision,
              reading: Reading) -> State:
  """Shardings of the state in `stage`, a tree like the state itself.

  Args:
    abstract: parameters of the network, shapes and dtypes.
    mesh: the mesh.
    stage: the reference and what is trained depend on it.
    optimizer, precision, reading: of the run.
  """
  run = optimizer, precision, reading
  shapes = jax.eval_shape(lambda params: initial_state(params, stage, *run), abstract)
  whole = NamedSharding(mesh, PartitionSpec())
  like_params = param_shardings(abstract, mesh)
  trained, _ = split_params(like_params, stage.train)
  # Muon has no second moments of its own kernels, and masks where they would be.
  masked = lambda leaf: isinstance(leaf, optax.MaskedNode)
  moments = optax.tree.map_params(
      optimizer, lambda leaf, sharding: leaf if masked(leaf) else sharding, shapes["opt_state"],
      trained, transform_non_params=lambda _: whole, is_leaf=masked)
  tree = {name: jax.tree.map(lambda _: whole, shapes[name]) for name in ("step", "calibration")}
  tree |= {name: like_params for name in shapes.keys() & {"params", "ema", "reference"}}
  return {**tree, "opt_state": moments}


def abstract(params: Params, mesh: Mesh, stage: Stage, optimizer: optax.GradientTransformation,
             precision: Precision, reading: Reading) -> State:
  """Shapes, dtypes and shardings of the state in `stage`; arguments as of `shardings`."""
  run = optimizer, precision, reading
  shapes = jax.eval_shape(lambda params: initial_state(params, stage, *run), params)
  return jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
      shapes, shardings(params, mesh, stage, *run))
