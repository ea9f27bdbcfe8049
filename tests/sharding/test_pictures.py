"""The VAE with its pictures split over the devices of a mesh."""

import jax
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.models import vae
from emv3_jax.models.vae_layers import VIDEO_AXES
from emv3_jax.sharding.mesh import MeshConfig
from emv3_jax.sharding.pictures import check_split, nearest_sizes, picture_split
from tests.compiler import QUICK

CONFIG = vae.VAEConfig(base_dim=4)
SIZE8 = (4, 6)  # two devices split the columns, four the rows


@pytest.mark.parametrize("devices,batch,size8,want", [
    (8, 1, (96, 96), (1, 1, 1, 8)), (8, 1, (104, 60), (1, 1, 2, 4)), (8, 2, (104, 60), (1, 2, 1, 4)),
    (8, 8, (60, 60), (1, 8, 1, 1)), (64, 1, (60, 104), (2, 1, 4, 8)), (8, 1, (3, 5), (8, 1, 1, 1)),
    (6, 1, SIZE8, (1, 1, 1, 6)), (1, 1, SIZE8, (1, 1, 1, 1))])
def test_how_pictures_are_split(devices, batch, size8, want):
  split = picture_split(devices, batch, size8)
  assert (split.copies, split.batch, split.height, split.width) == want


@pytest.mark.parametrize("devices,size8", [(64, (60, 104)), (8, (3, 5)), (7, (60, 104)), (5, (8, 8))])
def test_nearest_sizes_split_over_all(devices, size8):
  assert picture_split(devices, 1, size8).copies > 1
  near = nearest_sizes(devices, 1, size8)
  assert len(near) == 2
  for height, width in near:
    assert height % 16 == width % 16 == 0 and height and width
    assert picture_split(devices, 1, (height // 8, width // 8)).copies == 1


def test_480x832_over_64_chips_repeats_work_and_says_so():
  said = check_split(64, 1, (60, 104))
  assert "480x832 pixels, 60 rows and 104 columns of latents, over 32 of 64 devices (4 x 8)" in said
  assert said.endswith("Sizes nearby that all 64 share: 448x832 or 512x832.")
  assert not check_split(32, 1, (60, 104))


def test_a_picture_that_cannot_be_split_is_a_warning(caplog):
  mesh = sharding.make_mesh(MeshConfig(context=8))
  pin = sharding.picture_constraint(mesh, 1, (3, 5))
  assert "over 1 of 8 devices" in caplog.text
  assert pin(jax.numpy.ones((1, 2, 3, 5, 4)), *VIDEO_AXES).sharding.is_fully_replicated


def _run(method, x, mesh=None, folder=None):
  net = vae.network(CONFIG)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: 0.2 * rng.normal(size=leaf.shape).astype(np.float32),
                        net.abstract)
  how = {}
  if mesh is not None:
    params, x = sharding.shard_params(params, mesh, "vae"), sharding.replicate(x, mesh)
    how = dict(constrain=sharding.picture_constraint(mesh, len(x), SIZE8))
  program = jax.jit(lambda params, x: getattr(net.bind(params), method)(x, **how))
  compiled = program.lower(params, x).compile(QUICK)
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
