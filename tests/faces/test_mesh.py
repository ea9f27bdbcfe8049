import numpy as np
import pytest

from emv3_jax.faces import detect, mesh
from tests.faces.conftest import FACE


@pytest.fixture(scope="module")
def points(astronaut) -> np.ndarray:
  return mesh.landmarks(astronaut, FACE)


def opened(picture: np.ndarray, points: np.ndarray, rows: float) -> np.ndarray:
  """Opens the mouth by so many rows in the middle: what is below moves down; negative closes it."""
  top = round(float(points[list(mesh.INNER_LIPS), 1].mean()))
  corners = points[list(mesh.INNER_CORNERS), 0]
  y, x = np.mgrid[:picture.shape[0], :picture.shape[1]]
  shift = rows * np.maximum(0, 1 - ((x - corners.mean()) / (np.ptp(corners) / 2)) ** 2)
  source = np.where(y > top + np.maximum(shift, 0), np.clip(y - shift, 0, picture.shape[0] - 1), y)
  moved = picture[source.astype(int), x].copy()
  moved[(y > top) & (y <= top + shift)] = 50, 15, 20
  return moved


def test_landmarks_lie_on_the_face(points):
  """Of the picture: eyes at row 104, mouth at 145; the nose is nearest to the viewer."""
  assert points.shape == (468, 3) and points.dtype == np.float32
  y1, y2, x1, x2 = FACE
  x, y, z = points.T
  assert x1 - 5 < x.min() < x.max() < x2 + 5 and y1 < y.min() < y.max() < y2
  eyes, mouth = points[list(mesh.EYE_CORNERS)], points[list(mesh.INNER_CORNERS)]
  assert eyes[:, 1].mean() == pytest.approx(104, abs=4) and mouth[:, 1].mean() == pytest.approx(145, abs=4)
  assert z[[1, 4]].max() < z[[33, 263, 152, 10]].min()


def test_landmarks_are_in_pixels_of_the_picture(astronaut, points):
  wide = np.pad(astronaut, ((40, 0), (90, 0), (0, 0)))
  y1, y2, x1, x2 = FACE
  moved = mesh.landmarks(wide, (y1 + 40, y2 + 40, x1 + 90, x2 + 90))
  np.testing.assert_allclose(moved, points + [90, 40, 0], atol=1)


def test_a_face_s_box_and_the_box_of_its_landmarks_agree(astronaut, points):
  face, = detect.find(astronaut)
  np.testing.assert_allclose(mesh.face_box(points), face.box, atol=2.5)


def test_the_mouth_box_encloses_the_lips(points):
  y1, y2, x1, x2 = mesh.mouth_box(points)
  lips = points[list(mesh.LIPS), :2]
  assert x1 < lips[:, 0].min() and lips[:, 0].max() < x2 and y1 < lips[:, 1].min() and lips[:, 1].max() < y2
  tight = mesh.mouth_box(points, 0.0)
  width = np.linalg.norm(lips[0] - lips[10])
  np.testing.assert_allclose(np.subtract(tight, (y1, y2, x1, x2)), np.array([1, -1, 1, -1]) * 0.25 * width, rtol=1e-3)


def test_the_opening_follows_the_lips(astronaut, points):
  """The portrait smiles with its teeth visible."""
  openings = [mesh.mouth_opening(mesh.landmarks(opened(astronaut, points, rows), FACE)) for rows in (-6, 0, 8, 16)]
  assert openings[1] == pytest.approx(0.16, abs=0.02)
  assert np.diff(openings).min() > 0.02 and openings[-1] > 0.28


def test_the_opening_is_a_ratio():
  points = np.zeros((468, 3), np.float32)
  points[[78, 308], 0] = -20, 20
  points[[13, 14], 1] = -4, 6
  assert mesh.mouth_opening(points) == mesh.mouth_opening(points * 3) == 0.25
  assert mesh.mouth_opening(points * np.float32([1, 0, 1])) == 0
