"""The face networks against the run-time that their weights were made for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.faces import networks
from emv3_jax.models import blaze_face, blaze_layers
from tests.faces.conftest import HERE


@pytest.fixture(scope="module")
def golden():
  return dict(np.load(HERE / "golden.npz"))


def agree(got, want) -> None:
  assert got.shape == want.shape and got.dtype == np.float32
  assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_the_detector_agrees(astronaut, golden):
  scores, shapes = networks.detect(astronaut)
  agree(scores, golden["scores"][0])
  agree(shapes, golden["shapes"][0])


def test_the_mesh_agrees(astronaut, golden):
  points, presence = networks.locate(np.ascontiguousarray(astronaut[32:224, 32:224]))
  agree(points, golden["points"][0])
  assert presence == pytest.approx(golden["presence"][0], rel=1e-5)


def test_the_networks_run_on_the_cpu_and_compile_once(astronaut):
  """A face box is then the same on every machine."""
  networks.detect(astronaut)
  params, program = networks._load("detector", blaze_face.detect)
  assert {leaf.devices().pop().platform for leaf in jax.tree.leaves(params)} == {"cpu"}
  before = program._cache_size()
  networks.detect(astronaut[::-1])
  assert program._cache_size() == before == 1


def test_anchors_stand_in_the_middle_of_their_cells():
  anchors = blaze_face.anchors()
  assert anchors.shape == (blaze_face.ANCHORS, 2) == (896, 2)
  np.testing.assert_array_equal(anchors[[0, 1, 2, 511]], [[8, 8], [8, 8], [24, 8], [248, 248]])
  np.testing.assert_array_equal(anchors[[512, 517, 518, 895]], [[16, 16], [16, 16], [48, 16], [240, 240]])


def test_activation_has_a_slope_where_there_is_one():
  x = jnp.float32([-2, 3]).reshape(1, 1, 1, 2)
  slope = {"slope": jnp.float32([0.5, 9])}
  np.testing.assert_array_equal(blaze_layers.activate(x, {}).ravel(), [0, 3])
  np.testing.assert_array_equal(blaze_layers.activate(x, slope).ravel(), [-1, 3])
