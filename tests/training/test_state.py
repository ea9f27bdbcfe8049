"""What a stage starts with, and that the state is what `abstract_state` says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.models.network import named_leaves
from emv3_jax.models.precision import Precision
from emv3_jax.sharding import MeshConfig
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.run import run_config
from emv3_jax.training.run.checkpoints import Checkpoints
from emv3_jax.training.settings import MIXED, NDPOConfig
from emv3_jax.training.update.state import reference_params
from tests.training import tiny


def _after_some_training(state):
  """A state as a few steps leave it: average, moments and weights all differ."""
  def shifted(path, leaf):
    name = jax.tree_util.keystr(path)
    by = {"['params']": 1, "['ema']": 2, "['opt_state']": 3, "['calibration']": 4}
    return leaf + leaf.dtype.type(next((x for prefix, x in by.items() if name.startswith(prefix)), 0))
  return jax.tree_util.tree_map_with_path(shifted, state) | {"step": jnp.int32(2)}


def _begun(stage: Stage, **fields):
  """State at the end of a first stage, and at the start of `stage`; on the host."""
  config = tiny.config_of(Stage("first", 2), stage, **fields)
  programs = tiny.programs_of(config)
  state = _after_some_training(programs.initial_state(tiny.params_on(programs)))
  before = jax.device_get(state)
  return before, jax.device_get(programs.begin_stage(state, 2)), programs


def _equal(left, right) -> bool:
  left, right = named_leaves(left), named_leaves(right)
  return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


def test_a_run_starts_with_its_weights_as_the_average():
  programs = tiny.programs_of(tiny.config_of())
  params = tiny.params_of(programs.network)
  state = programs.initial_state(tiny.params_on(programs))
  assert state["step"] == 0 and "reference" not in state
  assert _equal(jax.device_get(state["params"]), params)
  assert _equal(jax.device_get(state["ema"]), params)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(state["opt_state"]))


def test_a_stage_starts_from_the_average_with_fresh_moments():
  before, after, _ = _begun(Stage("next", 2))
  assert _equal(after["params"], before["ema"]) and _equal(after["ema"], before["ema"])
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(after["opt_state"]))
  assert after["step"] == 2


def test_a_stage_that_goes_on_keeps_weights_and_moments():
  before, after, _ = _begun(Stage("next", 2, start="online"))
  for part in ("params", "ema", "opt_state"):
    assert _equal(after[part], before[part])


def test_moments_are_fresh_where_others_are_trained():
  before, after, _ = _begun(Stage("next", 2, start="online", train="audio"))
  assert _equal(after["params"], before["params"])
  moments = named_leaves(after["opt_state"])
  assert 0 < len(moments) < len(named_leaves(before["opt_state"]))
  assert not any(np.any(leaf) for leaf in moments.values())


@pytest.mark.parametrize("start, part", [("ema", "ema"), ("online", "params")])
def test_the_reference_is_what_negatives_are_sampled_from(start, part):
  """The average, whatever the stage starts from."""
  before, after, programs = _begun(Stage("next", 2, kind="ndpo", start=start))
  assert _equal(after["reference"], before["ema"]) and _equal(after["params"], before[part])
  assert "reference" not in programs.abstract_state(2)  # as the stage before left it
  assert "reference" in programs.abstract_state(3)


@pytest.mark.parametrize("kind", ["ndpo", "dpo"])
def test_absolute_measures_anew_in_each_stage_and_without_a_reference(kind):
  """But paired DPO, which has one whatever the reading."""
  before, after, _ = _begun(Stage("next", 2, kind=kind), ndpo=NDPOConfig("absolute"))
  assert before["calibration"]["count"] == 4 and before["calibration"]["total"] == 4
  assert not any(np.any(leaf) for leaf in after["calibration"].values())
  assert ("reference" in after) == (kind == "dpo")


def test_states_of_version_0_1_had_a_reference_they_did_not_use(tmp_path):
  """What is left over in a checkpoint is left there; what is missing is told."""
  whole = jax.NamedSharding(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]), jax.P())
  state = {name: jax.device_put(np.arange(3.0), whole) for name in ("params", "reference")}
  abstract = lambda *names: {
      name: jax.ShapeDtypeStruct((3,), np.float32, sharding=whole) for name in names}
  config = tiny.config_of()
  with Checkpoints(tmp_path, run_config.describe(config, {}), keep=2) as checkpoints:
    checkpoints.save(4, state, ())
    checkpoints.wait()
    found, _ = checkpoints.load(4, abstract("params"))
    assert found.keys() == {"params"} and np.array_equal(found["params"], np.arange(3.0))
    with pytest.raises(InputError, match="checkpoints/4 cannot be read"):
      checkpoints.load(4, abstract("params", "ema"))


def test_nothing_happens_but_where_a_stage_begins():
  programs = tiny.programs_of(tiny.config_of(Stage("first", 2), Stage("next", 2)))
  state = programs.initial_state(tiny.params_on(programs))
  assert all(programs.begin_stage(state, step) is state for step in (0, 1, 3, 4, 9))


@pytest.mark.parametrize("precision", [Precision(), MIXED], ids=["float32", "mixed"])
@pytest.mark.parametrize("sizes", [{}, dict(fsdp=2, context=2, tensor=2)], ids=["one", "eight"])
def test_the_state_is_what_was_announced(sizes, precision):
  config = tiny.config_of(Stage("first", 2), Stage("next", 2, kind="ndpo", train="audio"))
  config = dataclasses.replace(
      config, mesh=MeshConfig(**sizes),
      precision=dataclasses.replace(config.precision, transformer=precision))
  programs = tiny.programs_of(config)
  state = programs.initial_state(tiny.params_on(programs))
  for step in (1, 3):
    abstract = programs.abstract_state(step)
    jax.tree.map(lambda leaf, like: _is_like(leaf, like), state, abstract)
    state = programs.begin_stage(state, 2)


def _is_like(leaf, like):
  assert leaf.shape == like.shape and leaf.dtype == like.dtype
  assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim), (leaf.sharding, like.sharding)


def test_the_reference_is_half_as_large_but_for_what_is_read_in_float32():
  params = tiny.params_of(tiny.programs_of(tiny.config_of()).network)
  dtypes = {name: leaf.dtype for name, leaf in named_leaves(reference_params(params, MIXED)).items()}
  single = {name for name, dtype in dtypes.items() if dtype == jnp.float32}
  assert {"time_projection.kernel", "blocks.modulation", "head.modulation",
          "blocks.self_attn.norm_q.scale", "audio_projection.norm.bias"} <= single
  assert {dtypes[name] for name in ("blocks.ffn.up.kernel", "blocks.cross_attn.v_audio.kernel",
                                    "patch_embedding.bias")} == {jnp.dtype(jnp.bfloat16)}
