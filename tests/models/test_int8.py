"""int8 weights: which they are, their error, that they are float only where they are used, and meshes."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.components.config import PrecisionConfig
from emv3_jax.errors import InputError
from emv3_jax.io import checkpoints
from emv3_jax.models import int8, transformer, umt5
from emv3_jax.models.network import named_leaves
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.sharding import MeshConfig
from emv3_jax.training.settings import Config
from tests.compiler import QUICK
from tests.sharding import tiny

INT8 = Precision("int8", "float32")
TEXT = umt5.UMT5Config(vocab_size=40, dim=64, attention_dim=48, ffn_dim=96, num_heads=4, num_layers=2)
MESH = MeshConfig(fsdp=2, context=2, tensor=2)
NETWORKS = {"transformer": functools.partial(transformer.network, tiny.CONFIG),
            "text_encoder": functools.partial(umt5.network, TEXT)}


@functools.cache
def _floats(name):
  if name == "transformer":
    return tiny.params_of()
  params = umt5.network(TEXT).untrained(0)
  params["blocks"]["attn"]["q"]["kernel"] *= 12 ** -0.5  # logits are not divided by the square root of the head's width
  return params


@functools.cache
def _quantised(name):
  kinds = NETWORKS[name](INT8).abstract
  return jax.tree.map(int8.like, _floats(name), kinds)


def _close(got, want, tolerance):
  np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize("axis", [-2, -1])
def test_a_weight_is_off_by_half_a_scale_at_most(axis, rng):
  matrix = (rng.normal(size=(3, 20, 30)) * rng.uniform(size=(3, 20, 30)) ** 4).astype(np.float32)
  matrix[0, 4], matrix[0, :, 4] = 0, 0
  pair = int8.quantise(matrix, axis)
  assert pair["int8"].dtype == np.int8 and np.abs(pair["int8"]).max() == 127
  error = np.abs(pair["int8"] * pair["scale"] - matrix)
  assert (error <= 0.50001 * pair["scale"]).all() and (error[matrix == 0] == 0).all()
  assert pair["scale"].shape == np.max(matrix, axis, keepdims=True).shape
  on_device = jax.jit(functools.partial(int8.quantise, axis=axis))(matrix)
  for name, array in pair.items():
    np.testing.assert_array_equal(on_device[name], array)


def test_a_matrix_that_is_not_a_number_stays_so():
  with np.errstate(invalid="ignore"):
    pair = int8.quantise(np.array([[np.nan, 1.0], [2.0, 3.0]], np.float32), -2)
  assert np.isnan(pair["scale"][0, 0]) and pair["scale"][0, 1] > 0


@pytest.mark.parametrize("name, others", [("transformer", ()), ("text_encoder", ("token_embedding.embedding",))])
def test_matrices_of_the_layers_alone_are_quantised(name, others):
  kinds = named_leaves(NETWORKS[name](Precision("int8", "bfloat16")).abstract)
  floats = named_leaves(NETWORKS[name](FLOAT32).abstract)
  wanted = {leaf for leaf in floats if leaf.startswith("blocks.") and leaf.endswith(".kernel")} | set(others)
  assert {leaf.removesuffix(".int8") for leaf in kinds if kinds[leaf].dtype == jnp.int8} == wanted
  assert kinds.keys() - {f"{leaf}.{part}" for leaf in wanted for part in ("int8", "scale")} == floats.keys() - wanted
  assert all(kinds[leaf].dtype == jnp.bfloat16 for leaf in floats.keys() - wanted
             if not leaf.startswith("time_"))


def test_untrained_weights_are_the_quantised_ones_of_the_float_network():
  want = jax.tree.map(int8.like, umt5.network(TEXT).untrained(3), umt5.network(TEXT, INT8).abstract)
  jax.tree.map(np.testing.assert_array_equal, umt5.network(TEXT, INT8).untrained(3), want)


def _encode(params, precision, ids, mask):
  run = jax.jit(lambda params: umt5.network(TEXT, precision).bind(params)(ids, mask), compiler_options=QUICK)
  return np.asarray(run(params))


def test_text_states_are_near_those_of_float_weights_and_the_same_when_streamed(rng):
  ids, mask = rng.integers(0, TEXT.vocab_size, (2, 7), np.int32), np.arange(7) < np.array([[7], [4]])
  want, got = (_encode(params("text_encoder"), precision, ids, mask)
               for params, precision in ((_floats, FLOAT32), (_quantised, INT8)))
  assert 1e-3 < np.linalg.norm(got - want) / np.linalg.norm(want) < 4e-2
  quantised, floats = _quantised("text_encoder"), _floats("text_encoder")
  streamed = umt5.encode_streaming(
      TEXT, INT8, lambda: floats["token_embedding"],
      lambda index: jax.tree.map(lambda leaf: leaf[index], quantised["blocks"]), lambda: quantised["norm"], ids, mask)
  _close(streamed, got, 2e-6)


@functools.cache
def _velocity(quantised, mesh=None):
  """The velocity, and the text of its program."""
  params, precision = (_quantised, INT8) if quantised else (_floats, FLOAT32)
  args = params("transformer"), tiny.noise_of(4), dataclasses.asdict(tiny.conditions_of(4))
  if mesh is not None:
    args = sharding.shard_params(args[0], mesh), *sharding.replicate(args[1:], mesh)
  run = functools.partial(tiny.loss_and_velocity, mesh=mesh, precision=precision, remat="none")
  program = jax.jit(run).lower(*args).compile(QUICK)
  return np.asarray(program(*args)[1]), program.as_text()


def test_a_velocity_is_near_that_of_float_weights_and_the_same_on_a_mesh():
  want, got = _velocity(False)[0], _velocity(True)[0]
  assert 1e-3 < np.linalg.norm(got - want) / np.linalg.norm(want) < 2e-2
  mesh = tiny.mesh_of(MESH)
  up = sharding.shard_params(_quantised("transformer"), mesh)["blocks"]["ffn"]["up"]["kernel"]
  assert {leaf: up[leaf].addressable_shards[0].data.shape for leaf in up} == {
      "int8": (3, 24, 96), "scale": (3, 1, 96)}  # over fsdp x context, and tensor
  split, program = _velocity(True, mesh)
  _close(split, got, 1e-5)
  gathered = re.findall(r" = (\w+)\[96,(?:48|96)\]\S* all-gather\(", program)
  assert gathered.count("s8") >= 10  # the matrices of a layer; others are outside the layers


def test_a_stack_of_layers_is_never_float_again():
  assert set(re.findall(r"(\w+)\[3,96,(?:192|96)\]", _velocity(True)[1])) == {"s8"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_folder_is_quantised_when_read(name, tmp_path):
  kinds, want = NETWORKS[name](INT8).abstract, named_leaves(_quantised(name))
  checkpoints.save_component(tmp_path, name, _floats(name), config={})
  shardings = sharding.param_shardings(kinds, tiny.mesh_of(MESH), name)
  for placed in (None, shardings):
    loaded = named_leaves(checkpoints.load_component(tmp_path, name, kinds, shardings=placed))
    assert loaded.keys() == want.keys()
    for leaf, array in loaded.items():
      np.testing.assert_array_equal(array, want[leaf], err_msg=leaf)
      assert (array.shape, array.dtype) == (named_leaves(kinds)[leaf].shape, named_leaves(kinds)[leaf].dtype)
      assert placed is None or array.sharding == named_leaves(shardings)[leaf]
  stream = checkpoints.stream_component(tmp_path, name, kinds)
  for leaf, array in named_leaves(stream.layer(1)).items():
    np.testing.assert_array_equal(array, want[f"blocks.{leaf}"][1], err_msg=leaf)


def test_other_networks_and_training_refuse_int8():
  with pytest.raises(InputError, match=r"precision.vae.params is int8, which only transformer and text_encoder"):
    PrecisionConfig(vae=INT8)
  with pytest.raises(ValueError, match=r"compute is 'int8'; known: float32, bfloat16"):
    Precision(compute="int8")
  with pytest.raises(InputError, match=r"transformer.params is int8, which has no gradient"):
    Config("x", precision=PrecisionConfig(transformer=INT8))
