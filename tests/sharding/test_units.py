"""Small parts of the sharding by themselves: what is moved, what is gathered, what comes back."""

import dataclasses

from flax import nnx
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.models.precision import Precision
from emv3_jax.sharding import constraints, rules
from emv3_jax.sharding.mesh import MeshConfig
from tests.sharding import tiny

MIXED = Precision(params="float32", compute="bfloat16")


def test_what_is_there_is_not_copied(monkeypatch):
  """Nor does JAX hear of it, which would refuse what lies on several hosts."""
  mesh = sharding.make_mesh(MeshConfig(fsdp=8))
  there = jax.device_put(np.arange(16.0), NamedSharding(mesh, P("fsdp")))
  with monkeypatch.context() as patch:
    patch.setattr(jax, "device_put", lambda *_: pytest.fail("it was put there again"))
    assert rules.put(there, NamedSharding(mesh, P(("fsdp",)))) is there
  moved = rules.put(there, NamedSharding(mesh, P()))
  assert moved.is_fully_replicated
  np.testing.assert_array_equal(moved, there)


def test_what_others_hold_is_gathered(monkeypatch):
  class Elsewhere:
    is_fully_addressable = is_fully_replicated = False
    addressable_data = staticmethod(lambda place: np.zeros(2))

  monkeypatch.setattr(multihost_utils, "process_allgather",
                      lambda array, tiled: np.arange(4) if tiled else None)
  np.testing.assert_array_equal(rules.fetch(Elsewhere()), np.arange(4))
  np.testing.assert_array_equal(rules.fetch(jnp.arange(3)), np.arange(3))


def test_rows_are_added_until_the_batch_divides():
  """Copies of the last one: over four, five rows become eight and seven too."""
  mesh = jax.sharding.AbstractMesh((2, 2, 1, 2), sharding.AXES)
  sharded = dataclasses.replace(tiny.on_mesh(tiny.CONFIG), mesh=mesh)
  for rows, added in ((5, 3), (7, 1), (8, 0)):
    want = [*range(rows), *[rows - 1] * added]
    np.testing.assert_array_equal(sharded.pad(jnp.arange(rows)), want)


@pytest.mark.parametrize("component, layer, into, out", [
    ("transformer", "blocks.self_attn", "v", "o"), ("transformer", "blocks.cross_attn", "v_audio", "o"),
    ("transformer", "blocks.ffn", "up", "down"), ("text_encoder", "blocks.attn", "v", "o"),
    ("text_encoder", "blocks.ffn", "gate", "down"), ("image_encoder", "blocks.attn", "v", "o"),
    ("image_encoder", "blocks.ffn", "up", "down"), ("audio_encoder", "blocks.ffn", "up", "down")])
def test_what_a_map_splits_the_next_one_sums_over(component, layer, into, out):
  """So that nothing is gathered between them."""
  width, inner = rules.axes_of(f"{layer}.{into}.kernel", component)
  assert inner is not None
  assert rules.axes_of(f"{layer}.{out}.kernel", component) == (inner, width)


class _Layer(nnx.Module):
  def __init__(self):
    self.kernel, self.bias = nnx.Param(jnp.ones((16, 8))), nnx.Param(jnp.ones(8))


def test_only_what_is_split_for_storage_is_gathered():
  """A kernel of queries: its width comes whole and narrow, its heads stay split; a bias stays."""
  mesh = sharding.make_mesh(MeshConfig(fsdp=2, tensor=4))
  graph, state = nnx.split(_Layer())

  def gathered(state):
    layer = sharding.parameter_gather(mesh, MIXED)(nnx.merge(graph, state), "blocks.self_attn.q")
    return layer.kernel[...], layer.bias[...]

  kernel, bias = jax.jit(gathered)(state)
  assert kernel.dtype == jnp.bfloat16 and bias.dtype == jnp.float32
  assert kernel.sharding.is_equivalent_to(NamedSharding(mesh, P(None, "tensor")), 2)


def test_a_gathered_weight_s_gradient_is_scattered():
  mesh = sharding.make_mesh(MeshConfig(fsdp=8))
  split, whole = (NamedSharding(mesh, spec) for spec in (P("fsdp"), P()))
  pull = jax.vjp(lambda x: constraints._gather(x, split, whole, jnp.bfloat16), jnp.ones((16, 4)))[1]
  (gradient,) = jax.jit(pull)(jnp.ones((16, 4), jnp.bfloat16))
  assert gradient.dtype == jnp.float32 and gradient.sharding.is_equivalent_to(split, 2)
