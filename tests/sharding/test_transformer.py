"""The transformer on eight devices gives the numbers, and the gradients, of one."""

import collections
import dataclasses
import functools
import logging

import chex
import jax
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.errors import InputError
from emv3_jax.models import transformer
from emv3_jax.models.network import named_leaves
from emv3_jax.models.precision import Precision
from emv3_jax.models.rope import time_sinusoid
from emv3_jax.sampling.denoise import Denoiser
from emv3_jax.sampling.settings import SamplingConfig
from emv3_jax.sharding.mesh import MeshConfig
from tests.compiler import QUICK
from tests.sharding import hlo, tiny

MIXED = Precision(params="float32", compute="bfloat16")
BATCH = 8


def _inputs(batch=BATCH, net=tiny.CONFIG):
  return tiny.noise_of(batch), dataclasses.asdict(tiny.conditions_of(batch, net, moves=True))


def _gradients(args, **how):
  step = jax.value_and_grad(functools.partial(tiny.loss_and_velocity, **how), has_aux=True)
  return jax.jit(step).lower(*args).compile(QUICK)(*args)


@functools.cache
def _unsharded():
  return _gradients((tiny.params_of(), *_inputs()))


def _assert_close(got, want, tolerance):
  got, want = named_leaves(got), named_leaves(want)
  assert got.keys() == want.keys()
  for name, leaf in want.items():
    largest = np.abs(leaf).max()
    assert largest > 0, f"no gradient reaches {name}"
    np.testing.assert_allclose(got[name], leaf, err_msg=name, atol=tolerance * largest)


def _marks(config: MeshConfig):
  """Two meshes have every axis and both modes of attention; the others are a slow confirmation."""
  return () if config in (tiny.MESHES[0], tiny.MESHES[2]) else pytest.mark.slow


@pytest.mark.parametrize("config", [
    pytest.param(config, id=tiny.name_of(config), marks=_marks(config))
    for config in tiny.MESHES if BATCH % (config.data * config.fsdp) == 0])
def test_forward_and_gradient_are_those_of_one_device(config):
  mesh = tiny.mesh_of(config)
  args = (sharding.shard_params(tiny.params_of(), mesh), *sharding.replicate(_inputs(), mesh))
  (_, velocity), gradients = _gradients(args, mesh=mesh, attention=config.attention)
  (_, want_velocity), want_gradients = _unsharded()
  _assert_close({"velocity": velocity}, {"velocity": want_velocity}, 1e-5)
  _assert_close(gradients, want_gradients, 2e-4)  # some are small differences of large numbers


@functools.cache
def _abstract_inputs(mesh, batch, net=tiny.CONFIG):
  spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spec),
                      _inputs(batch, net))


def _abstract_params(mesh):
  return sharding.abstract_on(transformer.network(tiny.CONFIG, MIXED).abstract, mesh)


@pytest.mark.parametrize("net, attention, token_blocks", [
    (tiny.CONFIG, "ulysses", 1), (tiny.CONFIG, "allgather", 3), (tiny.FLASH, "ulysses", 3)],
    ids=["preview-ulysses", "preview-allgather-blocks", "flash-ulysses-blocks"])
def test_collectives_of_a_layer(net, attention, token_blocks, tmp_path, capfd):
  config = MeshConfig(fsdp=2, context=4, attention=attention)
  mesh = tiny.mesh_of(config)
  sharded = tiny.on_mesh(net, mesh, precision=MIXED, attention=attention,
                         token_blocks=token_blocks)

  def velocity(params, noise, conditions):
    model = sharded.network.bind(params)
    context = model.project(conditions["text"]["prompt"], conditions["image"],
                            conditions["audio"], sharded.execution)
    sinusoid = jax.numpy.asarray(time_sinusoid(np.full(len(noise), 400.0), tiny.CONFIG.freq_dim))
    return model(noise, conditions["condition"], sinusoid, context, rope=sharded.rope(noise.shape),
                 face_mask=conditions["face_mask"], execution=sharded.execution)

  lowered = jax.jit(velocity).lower(sharded.abstract, *_abstract_inputs(mesh, 2, net))
  _, found = hlo.compile_with_collectives(lowered, tmp_path)
  assert "rematerialization" not in capfd.readouterr().err
  kinds = lambda where: collections.Counter(c.kind for c in found if where(c))
  # Eight weights: four of self-attention, q and o of cross-attention, two of the feed-forward, once a
  # layer and not once a block of tokens. That is all: attention to text, image and audio and the face
  # mask communicate nothing.
  layer = {c.body for c in found if "blocks/while" in c.scope}
  assert len(layer) == 1 and kinds(lambda c: c.body in layer) == {"all-gather": 8}
  in_attention = {"ulysses": {"all-to-all": 4}, "allgather": {"all-gather": 2}}[attention]
  assert kinds(lambda c: "manual" in c.body) == in_attention  # bodies of shard_map
  assert not any("audio" in c.scope or "cross_attention" in c.scope for c in found)
  _assert_weights_are_gathered_one_layer_at_a_time_in_bfloat16(found, net)


def _assert_weights_are_gathered_one_layer_at_a_time_in_bfloat16(found, net=tiny.CONFIG):
  abstract = named_leaves(transformer.network(net).abstract)
  layers = net.num_layers
  weights = {leaf.shape[1:] if name.startswith("blocks") else leaf.shape
             for name, leaf in abstract.items() if name.endswith("kernel")}
  gathers = [c for c in found if c.kind == "all-gather"]
  assert {c.shape for c in gathers} & weights
  for c in gathers:
    assert not (c.shape[0] == layers and len(c.shape) in (2, 3)), f"a whole stack: {c}"
    assert c.dtype == "bf16" or c.shape not in weights, c


def test_collectives_of_a_training_step(tmp_path, capfd):
  config = MeshConfig(fsdp=2, context=4)
  mesh = tiny.mesh_of(config)
  step = jax.grad(lambda *args: tiny.loss_and_velocity(*args, mesh=mesh, precision=MIXED)[0])
  shardings = sharding.param_shardings(transformer.network(tiny.CONFIG).abstract, mesh)
  lowered = jax.jit(step, out_shardings=shardings).lower(
      _abstract_params(mesh), *_abstract_inputs(mesh, 2))
  _, found = hlo.compile_with_collectives(lowered, tmp_path)
  assert "rematerialization" not in capfd.readouterr().err
  assert sum(c.kind == "all-to-all" for c in found) == 12
  _assert_weights_are_gathered_one_layer_at_a_time_in_bfloat16(found)


def test_a_batch_that_does_not_divide_is_padded_and_said_so(caplog):
  """Three guidance branches of one clip."""
  denoiser = Denoiser(tiny.on_mesh(tiny.CONFIG, tiny.mesh_of(MeshConfig(data=2))),
                      SamplingConfig(steps=2, neg_steps=0))
  caplog.set_level(logging.WARNING)
  noise, conditions = tiny.noise_of(1), tiny.conditions_of(1)
  params = denoiser.transformer.abstract
  step = denoiser.schedule[0]
  context = jax.eval_shape(denoiser._project, params, *denoiser._branch_shapes(conditions, step.branches))
  assert context.text[0].shape[1] == 4
  for _ in range(2):
    denoiser._branch_inputs(conditions, step)
  assert caplog.text.count("runs as") == 1  # said once
  assert "A batch of 3 over data 2 x fsdp 1 runs as 4 rows: 25 %" in caplog.text
  state = jax.eval_shape(lambda: denoiser.solver.init(noise))
  after = jax.eval_shape(denoiser._step, params, state, 0, context, denoiser.tables.tree(),
                         denoiser.rope_table(noise.shape), conditions.condition, conditions.face_mask,
                         step.branches)
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def test_what_does_not_fit_is_refused_before_compilation():
  mesh = tiny.mesh_of(MeshConfig(context=8))
  with pytest.raises(InputError, match="12 heads .* context 8"):
    tiny.on_mesh(tiny.CONFIG, mesh)
  sharded = tiny.on_mesh(tiny.CONFIG, mesh, attention="allgather")
  with pytest.raises(InputError, match="5 x 5 = 25 token positions"):
    sharded.rope((1, 3, 10, 10, 16))


def test_equal_arguments_give_the_same_object():
  mesh = tiny.mesh_of(MeshConfig(data=2))
  assert tiny.on_mesh(tiny.CONFIG, mesh) is tiny.on_mesh(tiny.CONFIG, mesh)
  assert tiny.on_mesh(tiny.CONFIG, mesh) is not tiny.on_mesh(tiny.CONFIG, mesh, precision=MIXED)


def test_an_activation_that_does_not_divide_names_the_axis():
  constrain = sharding.activation_constraint(tiny.mesh_of(MeshConfig(data=2, tensor=4)))
  with pytest.raises(InputError, match=r"Axis heads of 6 .* tensor 4 = 4"):
    constrain(np.zeros((2, 5, 6, 8)), "batch", "length", "heads", None)
