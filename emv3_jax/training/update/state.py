"""The state of a run: a plain dict of arrays, split over the mesh like the parameters.

    step         int32, number of steps done
    params       the transformer's parameters
    ema          their moving average, float32
    opt_state    of the parameters that the stage trains
    calibration  of negative DPO's reading `absolute`
    reference    the frozen model, in stages that measure against it (`ndpo.has_reference`)

All of it goes into a checkpoint, and with the seed it determines everything that follows.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import optax

from emv3_jax.models.network import Params
from emv3_jax.models.precision import Precision
from emv3_jax.sharding import param_shardings
from emv3_jax.training.curriculum import Stage, Trained
from emv3_jax.training.objectives import ndpo
from emv3_jax.training.settings import Reading
from emv3_jax.training.update import ema, trainable

State = dict


def fresh(params: Params, stage: Stage, optimizer: optax.GradientTransformation,
          precision: Precision, reading: Reading) -> State:
  """The state before the first step, in the run's first stage."""
  params = jax.tree.map(lambda leaf: leaf.astype(precision.param_dtype), params)
  state = {"step": jnp.zeros((), jnp.int32), "params": params, "ema": ema.start(params)}
  return _begun(state, stage, precision, reading, _moments(params, stage.train, optimizer))


def begin_stage(state: State, stage: Stage, previous: Stage,
                optimizer: optax.GradientTransformation, precision: Precision,
                reading: Reading) -> State:
  """The state at the first step of a stage, from that at the end of the previous one.

  A stage that starts from the average has fresh moments. One that goes on with the weights keeps
  its moments too, if it trains the same parameters. Negative DPO's frozen reference is the average
  in either case: what its negatives were sampled from.
  """
  params, kept = state["params"], state["opt_state"]
  if stage.start == "ema":
    params = jax.tree.map(lambda average, leaf: jnp.array(average, leaf.dtype, copy=True),
                          state["ema"], params)
  if stage.start == "ema" or stage.train != previous.train:
    kept = _moments(params, stage.train, optimizer)
  return _begun({**state, "params": params}, stage, precision, reading, kept)


def _begun(state: State, stage: Stage, precision: Precision, reading: Reading, opt_state) -> State:
  begun = {**state, "opt_state": opt_state, "calibration": ndpo.start_calibration()}
  begun.pop("reference", None)
  if ndpo.has_reference(stage, reading):
    begun["reference"] = ndpo.reference_of(begun["ema"], precision)
  return begun


def _moments(params: Params, trained: Trained, optimizer: optax.GradientTransformation):
  return optimizer.init(trainable.split(params, trained)[0])


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
  shapes = jax.eval_shape(lambda params: fresh(params, stage, *run), abstract)
  whole = NamedSharding(mesh, PartitionSpec())
  like_params = param_shardings(abstract, mesh)
  trained, _ = trainable.split(like_params, stage.train)
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
  shapes = jax.eval_shape(lambda params: fresh(params, stage, *run), params)
  return jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
      shapes, shardings(params, mesh, stage, *run))
