import numpy as np
from PIL import Image
import pytest

from emv3_jax.faces import detect, mesh
from emv3_jax.faces.detect import Proposals
from tests.faces.conftest import FACE


def overlap(box, other) -> float:
  corners = lambda box: np.array(box, float)[[0, 2, 1, 3]]
  return float(detect.overlaps(corners(box), corners(other)[None])[0])


def placed(face, height, width, top, left, fill=128) -> np.ndarray:
  picture = np.full((height, width, 3), fill, np.uint8)
  picture[top:top + face.shape[0], left:left + face.shape[1]] = face
  return picture


def shrunk(face, side) -> np.ndarray:
  return np.asarray(Image.fromarray(face).resize((side, side), Image.Resampling.LANCZOS))


def test_finds_a_face_and_its_points(astronaut):
  face, = detect.find(astronaut)
  assert overlap(face.box, FACE) > 0.8 and face.score > 0.8 and abs(face.roll) < 15
  assert face.points.shape == (468, 3) and face.points.dtype == np.float32


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_finds_faces_in_pictures_that_lie_on_their_side_or_head(astronaut, turns):
  face, = detect.find(np.ascontiguousarray(np.rot90(astronaut, turns)))
  y1, y2, x1, x2 = FACE
  want = {1: (256 - x2, 256 - x1, y1, y2), 2: (256 - y2, 256 - y1, 256 - x2, 256 - x1), 3: (x1, x2, 256 - y2, 256 - y1)}
  assert overlap(face.box, want[turns]) > 0.7
  assert abs(abs(face.roll) - {1: 90, 2: 180, 3: 90}[turns]) < 15


def test_a_tilted_head_has_a_box_about_its_ellipse(astronaut):
  tilted = np.asarray(Image.fromarray(astronaut).rotate(-40, Image.Resampling.BILINEAR, center=(128, 121)))
  face, = detect.find(tilted)
  upright, = detect.find(astronaut)
  assert face.roll - upright.roll == pytest.approx(40, abs=6)
  y1, y2, x1, x2 = face.box
  assert ((y1 + y2) / 2, (x1 + x2) / 2) == pytest.approx((121, 128), abs=15)
  assert (x2 - x1) / (upright.box[3] - upright.box[2]) == pytest.approx(1.13, abs=0.12)


@pytest.mark.parametrize("height, width, side", [(1080, 1920, 90), (1200, 600, 128), (64, 64, 48)])
def test_finds_small_faces_in_parts_of_the_picture(astronaut, height, width, side):
  """Of 48, 69 and 26 pixels; in the wide picture the detector sees 7 pixels of the whole."""
  top, left = height - side - 5, width // 3
  face, = detect.find(placed(shrunk(astronaut, side), height, width, min(top, height - side), min(left, width - side)))
  scale, top, left = side / 256, min(top, height - side), min(left, width - side)
  want = np.array(FACE) * scale + [top, top, left, left]
  assert overlap(face.box, want) > 0.5


def test_parts_are_searched_on_demand(astronaut):
  tiny = placed(shrunk(astronaut, 54), 1080, 1920, 40, 400)
  assert detect.find(tiny, closely=False) == []
  assert len(detect.find(astronaut, closely=False)) == 1


def test_the_largest_of_several_comes_first(astronaut):
  both = np.concatenate([shrunk(astronaut, 128), np.zeros((128, 128, 3), np.uint8)])
  faces = detect.find(np.concatenate([both, astronaut], axis=1))
  assert len(faces) == 2 and faces[0].area > 3 * faces[1].area
  assert overlap(faces[0].box, np.array(FACE) + [0, 0, 128, 128]) > 0.8


@pytest.mark.parametrize("change", [
    lambda picture: picture[190:], lambda picture: np.zeros((1, 9, 3), np.uint8),
    lambda picture: np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)],
    ids=["below the chin", "one row", "noise"])
def test_finds_no_face_where_there_is_none(astronaut, change):
  assert detect.find(np.ascontiguousarray(change(astronaut))) == []


def test_a_proposal_without_a_face_is_refused_by_the_mesh(astronaut, monkeypatch):
  monkeypatch.setattr(mesh, "locate", lambda *_: (np.ones((468, 3), np.float32), -0.1))
  assert detect.find(astronaut) == []


def test_a_face_in_a_part_has_to_be_surer(astronaut, monkeypatch):
  """Cats are taken for people with such odds where parts are searched."""
  locate, tiny = mesh.locate, placed(shrunk(astronaut, 54), 1080, 1920, 40, 400)
  assert len(detect.find(tiny)) == 1
  monkeypatch.setattr(mesh, "locate", lambda *how: (locate(*how)[0], 2.2))
  assert len(detect.find(astronaut)) == 1
  assert detect.find(tiny) == []


def test_parts_cover_the_picture():
  image = Image.new("RGB", (1920, 1080))
  for share, count, side in ((0.4, 6, 768), (0.25, 15, 480)):
    parts = list(detect._parts(image, share))
    assert len(parts) == count and {part[2] for part in parts} == {side}
    covered = np.zeros((1080, 1920), bool)
    for left, top, side in parts:
      assert left >= 0 and top >= 0
      covered[round(top):round(top + side), round(left):round(left + side)] = True
    assert covered.all()
  assert not list(detect._parts(Image.new("RGB", (256, 200)), 0.4))
  assert len(list(detect._parts(Image.new("RGB", (9000, 10)), 0.25))) < 20


def test_proposals_are_decoded_from_their_anchors():
  scores, shapes = np.full(896, -9, np.float32), np.zeros((896, 8, 2), np.float32)
  scores[[2, 3, 4]] = 2, 2, 1e9
  shapes[2] = [[4, 2], [10, 20], *[[1, 1]] * 6]
  shapes[3, 1] = -5  # no box
  shapes[4, 1] = 6
  found = detect.decode(scores, shapes)
  np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-2)), 1])
  np.testing.assert_allclose(found.boxes, [[24 + 4 - 5, 8 + 2 - 10, 24 + 4 + 5, 8 + 2 + 10], [37, 5, 43, 11]])
  np.testing.assert_allclose(found.shapes[0, 2], [25, 9])


def test_overlapping_proposals_become_their_weighted_mean():
  shapes = np.zeros((3, 8, 2))
  shapes[:, 1] = 10
  shapes[1] += 2
  shapes[2] += 50
  merged = detect.merge(Proposals(np.array([0.6, 0.9, 0.7]), shapes))
  np.testing.assert_allclose(merged.scores, [0.9, 0.7])
  np.testing.assert_allclose(merged.boxes[:, 0], [2 * 0.9 / 1.5, 50])
