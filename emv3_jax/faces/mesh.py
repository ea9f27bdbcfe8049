"""Points of a face, and the boxes and measures that follow from them.

Points are numbered as in MediaPipe's canonical face. Boxes are (y1, y2, x1, x2) in pixels.
"""

import math

from jaxtyping import Float32
import numpy as np
from PIL import Image

from emv3_jax.faces import crops, networks
from emv3_jax.models.face_mesh import SIZE

Points = Float32[np.ndarray, "468 3"]
Box = tuple[float, float, float, float]

EYE_CORNERS = 33, 263  # the outer ones, image left and right
INNER_CORNERS = 78, 308  # of the mouth
INNER_LIPS = 13, 14  # middle of the upper and of the lower lip
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409)  # outer edge

# The mesh reaches from the brow to the chin. The boxes released with portraits reach up to the hair line:
# height and width in units of the mesh's, and the shift of the centre towards the chin.
BOX_HEIGHT, BOX_WIDTH, BOX_DOWN = 1.2, 0.99, -0.05
CROP_MARGIN = 1.5  # side of the network's crop, in units of the longer side of the face


def landmarks(picture: np.ndarray, box: Box) -> Points:
  """Locates the 468 points of the face in a face box.

  Args:
    picture: uint8 RGB [H, W, 3].
    box: (y1, y2, x1, x2), from hair line to chin and from ear to ear.

  Returns:
    x and y in pixels of the picture; z in the same unit, negative towards the viewer.
  """
  y1, y2, x1, x2 = box
  height = (y2 - y1) / BOX_HEIGHT
  centre = np.array([(x1 + x2) / 2, (y1 + y2) / 2 - BOX_DOWN * height])
  side = CROP_MARGIN * max(height, (x2 - x1) / BOX_WIDTH)
  image = Image.fromarray(picture)
  return refine(image, locate(image, centre, side, 0.0)[0])


def locate(picture: Image.Image, centre: np.ndarray, side: float, turn: float) -> tuple[Points, float]:
  """Locates the points of a face in a square crop.

  Args:
    picture: RGB.
    centre: (x, y) of the crop in pixels.
    side: of the crop in pixels, about 1.5 times the longer side of the face.
    turn: roll of the face in radians, clockwise.

  Returns:
    the points in pixels of the picture, and the log-odds that there is a face.
  """
  crop, matrix = crops.turned(picture, centre, side, turn, SIZE)
  points, presence = networks.locate(crop)
  xy = points[:, :2] @ matrix[:, :2].T + matrix[:, 2]
  return np.column_stack([xy, points[:, 2] * (side / SIZE)]).astype(np.float32), presence


def refine(picture: Image.Image, points: Points) -> Points:
  """Locates the points once more, in the crop that they give; the network is best with upright faces."""
  centre, side, _ = _extent(points)
  return locate(picture, centre, side, roll(points))[0]


def roll(points: Points) -> float:
  """Returns the angle of the line through the eyes in radians; positive where the image's right is lower."""
  across = points[EYE_CORNERS[1], :2] - points[EYE_CORNERS[0], :2]
  return math.atan2(across[1], across[0])


def face_box(points: Points) -> Box:
  """Returns the box around an ellipse over the face, from hair line to chin and from ear to ear."""
  centre, _, axes = _extent(points)
  angle = roll(points)
  down = np.array([-math.sin(angle), math.cos(angle)])
  x, y = centre + BOX_DOWN * axes[1] * down
  a, b = axes[0] * BOX_WIDTH / 2, axes[1] * BOX_HEIGHT / 2
  half_width = math.hypot(a * math.cos(angle), b * math.sin(angle))
  half_height = math.hypot(a * math.sin(angle), b * math.cos(angle))
  return float(y - half_height), float(y + half_height), float(x - half_width), float(x + half_width)


def mouth_box(points: Points, margin: float = 0.25) -> Box:
  """Returns the box around the lips, with a margin in units of the mouth's width on each side."""
  lips = points[list(LIPS), :2]
  (x1, y1), (x2, y2) = lips.min(0).tolist(), lips.max(0).tolist()
  room = margin * math.dist(points[LIPS[0], :2], points[LIPS[10], :2])
  return y1 - room, y2 + room, x1 - room, x2 + room


def mouth_opening(points: Points) -> float:
  """Returns the distance of the inner lips over the distance of the inner corners of the mouth, both in 3D.

  About 0 where the lips touch, 0.2 to 0.5 while a vowel is spoken.
  """
  upper, lower = points[list(INNER_LIPS)]
  left, right = points[list(INNER_CORNERS)]
  return math.dist(upper, lower) / max(math.dist(left, right), 1e-6)


def _extent(points: Points) -> tuple[np.ndarray, float, np.ndarray]:
  """Returns the centre (x, y), the side of the network's crop, and width and height in the face's frame."""
  angle = roll(points)
  turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
  inner = points[:, :2] @ turn.T
  low, high = inner.min(0), inner.max(0)
  return turn.T @ ((low + high) / 2), float(CROP_MARGIN * max(high - low)), high - low
