"""Meshes from text, and the likeliest ones."""

import dataclasses
import math

import pytest

from emv3_jax.errors import InputError
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.plan import meshes, targets
from emv3_jax.sharding import MeshConfig

NET, POSITIONS = TransformerConfig(), 48 * 48


def test_text_and_mesh_are_two_forms_of_one_thing():
  mesh = meshes.parse("data=2,context=8,attention=allgather", 16)
  assert mesh == MeshConfig(data=2, context=8, attention="allgather")
  assert meshes.parse(meshes.label(mesh), 16) == mesh
  assert meshes.parse(meshes.label(MeshConfig()), 1) == MeshConfig()


@pytest.mark.parametrize("text, message", [
    ("data=2,contxt=4", "did you mean 'context'"), ("data=two", "number of devices"),
    ("data=2,context=2", "takes 4 devices, the target has 8"),
    ("context=8,attention=ring", "allgather, ulysses"), ("", "unknown axis ''")])
def test_a_wrong_mesh_says_what_is_wrong(text, message):
  with pytest.raises(InputError, match=message):
    meshes.parse(text, 8)


def likely(target, positions=POSITIONS):
  return meshes.likely(targets.parse(target), meshes.Step(NET, 3, positions, 29))


@pytest.mark.parametrize("target, best", [
    ("v5e:1x1", MeshConfig()), ("v5e:2x2", MeshConfig(context=4)),
    ("h100:1x1x3", MeshConfig(data=3)), ("h100:1x1x6", MeshConfig(data=3, context=2))])
def test_the_likeliest_mesh_computes_no_padding_and_moves_little(target, best):
  found = likely(target)
  assert found[0] == best
  assert all(math.prod(mesh.sizes) == targets.parse(target).devices for mesh in found)
  assert len(set(found)) == len(found)


def test_between_hosts_little_is_moved():
  best = likely("h100:1x8x8")[0]
  assert best.context * best.tensor <= 16 and meshes.padded(3, best) == best.data * best.fsdp


def test_meshes_that_do_not_divide_are_left_out():
  found = likely("v5e:2x4")
  assert MeshConfig(context=8, attention="allgather") in found
  assert MeshConfig(context=8) not in found  # ulysses: 12 heads
  assert all(mesh.tensor in (1, 2, 4) for mesh in found)
  assert all(mesh.context < 4 for mesh in likely("v5e:2x4", positions=30 * 31))


@pytest.mark.parametrize("target, rows, best", [
    ("v5e:4x4", 4, MeshConfig(fsdp=4, context=4)), ("h100:1x2x8", 16, MeshConfig(fsdp=16)),
    ("v5e:16x16", 64, MeshConfig(fsdp=64, context=4))])
def test_training_splits_clips_first_then_tokens_and_pads_nothing(target, rows, best):
  step = meshes.Step(NET, rows, 30 * 52, 29, trains=True)
  found = meshes.likely(targets.parse(target), step)
  assert found[0] == best
  assert all(rows % (mesh.data * mesh.fsdp) == 0 for mesh in found)


def test_slow_links_make_a_step_slower():
  """Tokens of a clip split over two nodes of eight GPUs cross the network between them."""
  target, step = targets.parse("h100:1x2x8"), meshes.Step(NET, 1, 60 * 104, 29)
  one_node = dataclasses.replace(target, chip=dataclasses.replace(target.chip, near_devices=16))
  mesh = MeshConfig(context=16, attention="allgather")
  assert meshes.seconds(mesh, target, step) > 1.5 * meshes.seconds(mesh, one_node, step)


def test_times_within_a_percent_are_one():
  assert [meshes.pace(time, (2.0, 3.0)) for time in (2.0, 2.01, 2.03, 3.0)] == [100, 100, 101, 150]
