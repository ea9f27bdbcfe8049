"""Meshes, and the errors of what does not fit on one."""

import pathlib
import subprocess
import sys
import types

import jax
import pytest

from emv3_jax import sharding
from emv3_jax.errors import InputError
from emv3_jax.models.execution import ExecutionConfig
from emv3_jax.plan import targets
from emv3_jax.sharding import mesh as mesh_lib
from emv3_jax.sharding.mesh import MeshConfig
from tests.sharding import tiny

ROOT = pathlib.Path(__file__).parents[2]


def test_axes_are_always_the_same():
  assert tiny.mesh_of(MeshConfig()).shape == dict(data=1, fsdp=1, context=1, tensor=1)
  assert sharding.make_mesh(MeshConfig(fsdp=4, tensor=2)).shape == dict(
      data=1, fsdp=4, context=1, tensor=2)


def test_tpu_axes_may_take_parts_of_a_line_of_chips():
  """context 16 x tensor 4 on 8x8 chips: neither is a line of eight."""
  pytest.importorskip("libtpu")
  script = """if True:
    from jax.experimental import topologies
    from emv3_jax.sharding import MeshConfig, make_mesh
    devices = topologies.get_topology_desc("v6e:8x8", "tpu").devices
    mesh = make_mesh(MeshConfig(context=16, tensor=4, attention="allgather"), devices)
    for line in mesh.devices.reshape(16, 4):  # the four chips of a tensor group are neighbours
      spread = [len({device.coords[i] for device in line}) for i in range(2)]
      assert spread in ([1, 4], [4, 1], [2, 2]), spread
  """
  subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=300,
                 env=targets.environment(targets.parse("v6e:8x8")))


@pytest.mark.parametrize("config", [MeshConfig(context=4), MeshConfig(data=4, context=4)])
def test_more_and_fewer_devices_than_there_are(config):
  with pytest.raises(InputError, match=rf"takes {4 * config.data} devices, there are 8"):
    sharding.make_mesh(config)


@pytest.mark.parametrize("fields,message", [
    (dict(context=0), "mesh.context is 0"), (dict(attention="ring"), "known: allgather, ulysses")])
def test_bad_configs(fields, message):
  with pytest.raises(InputError, match=message):
    MeshConfig(**fields)


def test_ulysses_over_eight_is_impossible():
  mesh = tiny.mesh_of(MeshConfig(context=8))
  with pytest.raises(InputError, match=r"12 heads .* context 8 x tensor 1 = 8\. With tensor 1 "
                                       r"context can be 1, 2, 3, 4, 6, 12; mesh.attention=allgather"):
    sharding.check_heads(mesh, 12, "ulysses")
  sharding.check_heads(mesh, 12, "allgather")
  with pytest.raises(InputError, match="12 heads .* tensor 8; possible: 1, 2, 3, 4, 6, 12"):
    sharding.check_heads(tiny.mesh_of(MeshConfig(tensor=8)), 12, "allgather")


def test_ulysses_counts_context_times_tensor():
  with pytest.raises(InputError, match="12 heads .* context 4 x tensor 2 = 8"):
    sharding.check_heads(sharding.make_mesh(MeshConfig(context=4, tensor=2)), 12, "ulysses")


def test_slices_are_joined_by_data_alone(monkeypatch):
  """Two slices of four chips each, which only say what they are."""
  devices = [types.SimpleNamespace(platform="tpu", slice_index=i // 4) for i in range(8)]
  seen = []

  def stop(*arguments, **_):
    seen.append(arguments)
    raise NotImplementedError

  monkeypatch.setattr(mesh_lib.mesh_utils, "create_hybrid_device_mesh", stop)
  with pytest.raises(NotImplementedError):
    sharding.make_mesh(MeshConfig(data=4, context=2), devices)
  assert seen == [((2, 1, 2, 1), (2, 1, 1, 1), devices)]
  with pytest.raises(InputError, match="mesh.data is 1, the devices are 2 slices"):
    sharding.make_mesh(MeshConfig(fsdp=8), devices)


def test_batch_names_both_numbers():
  with pytest.raises(InputError, match=r"batch of 3 .* data 2 x fsdp 4 = 8; .* is 8\."):
    sharding.check_batch(sharding.make_mesh(MeshConfig(data=2, fsdp=4)), 3)


def test_positions_name_the_nearest_sizes():
  mesh = sharding.make_mesh(MeshConfig(context=8))
  sharding.check_positions(mesh, (30, 52))
  with pytest.raises(InputError, match=r"480x848 pixels has 30 x 53 = 1590 token positions, which "
                                       r"do not divide over context 8; .*: 480x832 or"):
    sharding.check_positions(mesh, (30, 53))


@pytest.mark.parametrize("grid", [(1, 1), (29, 31), (48, 48)])
def test_nearest_grids_fit(grid):
  near = mesh_lib.nearest_grids(grid, 8)
  assert len(near) == 2 and all(h * w % 8 == 0 for h, w in near)
  if grid == (48, 48):
    assert near[0] == grid


def test_a_mesh_of_one_device_changes_nothing():
  mesh = tiny.mesh_of(MeshConfig())
  assert sharding.self_attention(mesh, "ulysses", tiny.ATTEND) is tiny.ATTEND
  x = jax.numpy.ones((3, 5))
  execution = tiny.on_mesh(tiny.CONFIG, mesh).execution
  assert execution == ExecutionConfig(attend=tiny.ATTEND, cross_attend=tiny.ATTEND)
  assert execution.constrain(x, "batch", "length") is execution.gather(x, "blocks") is x
