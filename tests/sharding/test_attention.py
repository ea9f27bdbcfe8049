"""Self- and cross-attention carried over the mesh, by themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.attention.local import attend_xla
from emv3_jax.attention.splash import attend_splash
from emv3_jax.errors import InputError
from emv3_jax.sharding.mesh import MeshConfig
from tests.compiler import QUICK
from tests.sharding import tiny


def _qkv(s=24, m=24, heads=12):
  rng = np.random.default_rng(0)
  return tuple(rng.normal(size=(2, length, heads, 8)).astype(np.float32) for length in (s, m, m))


def _out_and_gradients(attend, qkv, mesh=None):
  if mesh is not None:
    qkv = sharding.replicate(qkv, mesh)
  loss = lambda *qkv: (lambda out: (jnp.sum(jnp.sin(out)), out))(attend(*qkv))
  program = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
  (_, out), gradients = program.lower(*qkv).compile(QUICK)(*qkv)
  return out, *gradients


def _check(make, mesh, qkv, local=tiny.ATTEND):
  for got, want in zip(_out_and_gradients(make(mesh, local), qkv, mesh),
                       _out_and_gradients(attend_xla, qkv), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("config", [
    MeshConfig(context=6), MeshConfig(context=2, tensor=3), MeshConfig(data=2, context=4),
    MeshConfig(context=8, attention="allgather"), MeshConfig(fsdp=2, tensor=4)], ids=tiny.name_of)
def test_self_attention(config):
  make = lambda mesh, local: sharding.self_attention(mesh, config.attention, local)
  _check(make, tiny.mesh_of(config), _qkv())


def test_cross_attention_with_keys_of_any_length():
  _check(sharding.cross_attention, tiny.mesh_of(MeshConfig(data=2, context=2, tensor=2)), _qkv(m=7))


def test_splash_pads_inside_each_device():
  splash = functools.partial(attend_splash, interpret=True)
  make = lambda mesh, local: sharding.self_attention(mesh, "ulysses", local)
  _check(make, tiny.mesh_of(MeshConfig(context=2)), _qkv(heads=2), splash)


def test_heads_and_batch_are_checked():
  attend = sharding.self_attention(tiny.mesh_of(MeshConfig(context=8)), "ulysses", attend_xla)
  with pytest.raises(InputError, match="12 heads .* context 8"):
    attend(*_qkv())
  attend = sharding.self_attention(tiny.mesh_of(MeshConfig(data=4)), "ulysses", attend_xla)
  with pytest.raises(InputError, match="batch of 2 .* data 4 x fsdp 1 = 4"):
    attend(*_qkv())
