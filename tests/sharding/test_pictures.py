"""The VAE with its pictures split over the mesh, and the encoders with their weights split."""


import jax
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.errors import InputError
from emv3_jax.models import vae
from emv3_jax.sharding.constraints import picture_axes
from emv3_jax.sharding.mesh import MeshConfig
from tests.sharding import tiny

CONFIG = vae.VAEConfig(base_dim=4)
SIZE8 = (4, 6)  # two devices split the columns, four the rows


@pytest.mark.parametrize("sizes,batch,size8,want", [
    (dict(context=8), 1, (96, 96), dict(batch=(), width=("context",), height=())),
    (dict(context=8), 1, (104, 60), dict(batch=(), width=(), height=("context",))),
    (dict(data=2, context=4), 2, (104, 60), dict(batch=("data",), width=("context",), height=())),
    (dict(data=2, context=4), 1, (104, 60),
     dict(batch=(), width=("data",), height=("context",))),
    (dict(fsdp=2, context=2, tensor=2), 1, SIZE8,
     dict(batch=(), width=("fsdp",), height=("context", "tensor")))])
def test_how_pictures_are_split(sizes, batch, size8, want):
  assert picture_axes(sharding.make_mesh(MeshConfig(**sizes)), batch, size8) == want


def test_a_picture_that_cannot_be_split():
  mesh = sharding.make_mesh(MeshConfig(context=8))
  with pytest.raises(InputError, match="over context 8: neither 60 columns nor 60 rows"):
    sharding.constrain_pictures(mesh, 1, (60, 60))


def _run(method, x, mesh=None, folder=None):
  net = vae.network(CONFIG)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: 0.2 * rng.normal(size=leaf.shape).astype(np.float32),
                        net.abstract)
  how = {}
  if mesh is not None:
    params, x = sharding.place(params, mesh, "vae"), sharding.replicate(x, mesh)
    how = dict(constrain=sharding.constrain_pictures(mesh, len(x), SIZE8))
  program = jax.jit(lambda params, x: getattr(net.bind(params), method)(x, **how))
  compiled = program.lower(params, x).compile(tiny.QUICK)
  return np.asarray(compiled(params, x)), compiled


@pytest.mark.parametrize("method", ["decode", pytest.param("encode", marks=pytest.mark.slow)])
def test_split_pictures_are_those_of_one_device(method):
  mesh = sharding.make_mesh(MeshConfig(fsdp=2, context=2, tensor=2))
  shape = (1, 3, *SIZE8, 16) if method == "decode" else (1, 9, 8 * SIZE8[0], 8 * SIZE8[1], 3)
  x = np.random.default_rng(1).uniform(-1, 1, size=shape).astype(np.float32)
  want, plain = _run(method, x)
  got, split = _run(method, x, mesh)
  np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
  temporary = lambda program: program.memory_analysis().temp_size_in_bytes
  assert temporary(split) < 0.6 * temporary(plain)
