"""Detection of faces: BlazeFace proposes them, the face mesh confirms them and gives the box.

The whole picture is searched first, then overlapping parts of it, then smaller parts, then the picture
upside down; the first search that finds a face counts. The detector sees 256x256 pixels, in which it finds
faces of 13 pixels: 5 % of the longer side in the first search, 2 % and 1.3 % in parts. It knows faces that
are turned by up to 120 degrees.
"""

from collections.abc import Iterator
import dataclasses
import math

from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image

from emv3_jax.faces import crops, mesh, networks
from emv3_jax.faces.mesh import Box, Points
from emv3_jax.models import blaze_face

IDENTITY = "BlazeFace and face mesh, 1"  # to be changed when the same picture gets other boxes
MIN_SCORE = 0.5  # probability of the detector
# Log-odds of the mesh that there is a face: in the whole picture, where drawn faces are let through, and in
# the other searches, which look at many places without a face. Photographed faces have 15 to 60.
PRESENT, SURE, CERTAIN = 0.0, 3.0, 10.0
MAX_OVERLAP = 0.3  # intersection over union, above which two boxes are one face
MAX_PROPOSALS = 12  # of a search, that the mesh looks at
PARTS = 0.4, 0.25  # sides of the parts over the longer side of the picture
STEP = 0.75  # from part to part, over the side of a part


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
  """A face in a picture.

  Attributes:
    box: (y1, y2, x1, x2) in pixels, from hair line to chin and from ear to ear; it may leave the picture.
    score: probability of the detector.
    points: [468, 3], x, y and z in pixels.
  """

  box: Box
  score: float
  points: Points

  @property
  def area(self) -> float:
    y1, y2, x1, x2 = self.box
    return (y2 - y1) * (x2 - x1)

  @property
  def roll(self) -> float:
    """Angle in degrees by which the face is turned clockwise in the picture."""
    return math.degrees(mesh.roll(self.points))


@dataclasses.dataclass(frozen=True, eq=False)
class Proposals:
  """What the detector proposes.

  Attributes:
    scores: probabilities.
    shapes: for each, (x, y) in pixels of the picture of two corners of the box, then of six points.
  """

  scores: Float[np.ndarray, "n"]
  shapes: Float[np.ndarray, "n 8 2"]

  @property
  def boxes(self) -> Float[np.ndarray, "n 4"]:
    return self.shapes[:, :2].reshape(-1, 4)


def find(picture: UInt8[np.ndarray, "H W 3"], closely: bool = True) -> list[Face]:
  """Finds the faces of an RGB picture.

  Args:
    picture: RGB.
    closely: whether parts are searched if the whole picture shows no face, which takes ten times as long.

  Returns:
    the faces, the largest first; an empty list if there is none.
  """
  image = Image.fromarray(picture)
  faces = _confirmed(image, _proposed(image, _whole(image)), PRESENT)
  for share in PARTS if closely else ():
    faces = faces or _confirmed(image, _proposed(image, _parts(image, share)), SURE)
  if faces or not closely:
    return faces
  over = image.transpose(Image.Transpose.ROTATE_180)
  return [_turned_over(face, image.size)
          for face in _confirmed(over, _proposed(over, _whole(over)), SURE)]


def _whole(image: Image.Image) -> Iterator[tuple[float, float, float]]:
  side = max(image.size)
  yield (image.width - side) / 2, (image.height - side) / 2, side


def _parts(image: Image.Image, share: float) -> Iterator[tuple[float, float, float]]:
  """Yields (left, top, side) of overlapping squares that cover the picture."""
  longer, shorter = max(image.size), min(image.size)
  side = max(min(share * longer, shorter), longer / 12, blaze_face.SIZE)
  if side >= longer:
    return  # the whole picture, which was searched
  counts = [1 + max(math.ceil((length - side) / (STEP * side)), 0) for length in image.size]
  columns, rows = ([(length - side) / 2] if count == 1 else np.linspace(0, length - side, count).tolist()
                   for length, count in zip(image.size, counts, strict=True))
  for top in rows:
    for left in columns:
      yield left, top, side


def _proposed(image: Image.Image, parts: Iterator[tuple[float, float, float]]) -> Proposals:
  found = []
  for left, top, side in parts:
    scores, shapes = networks.detect(crops.upright(image, left, top, side, blaze_face.SIZE))
    one = decode(scores, shapes)
    found.append(Proposals(one.scores, one.shapes * (side / blaze_face.SIZE) + (left, top)))
  if not found:
    return Proposals(np.zeros(0), np.zeros((0, 2 + blaze_face.POINTS, 2)))
  return merge(Proposals(np.concatenate([one.scores for one in found]),
                         np.concatenate([one.shapes for one in found])))


def decode(scores: Float[np.ndarray, "896"], shapes: Float[np.ndarray, "896 8 2"]) -> Proposals:
  """Turns the outputs of the detector into proposals in pixels of its input."""
  probabilities = 1 / (1 + np.exp(-np.clip(scores.astype(np.float64), -80, 80)))
  kept = (probabilities >= MIN_SCORE) & (shapes[:, 1] > 0).all(1)
  centred = shapes[kept].astype(np.float64)
  half = centred[:, 1] / 2
  centred += blaze_face.anchors()[kept][:, None]
  centre = centred[:, 0].copy()
  centred[:, 0], centred[:, 1] = centre - half, centre + half
  return Proposals(probabilities[kept], centred)


def merge(proposals: Proposals) -> Proposals:
  """Non-maximum suppression: proposals that overlap the best one become one, their mean weighted by score.

  The result is sorted by score, best first.
  """
  order = np.argsort(-proposals.scores, kind="stable")
  scores, shapes = [], []
  while order.size:
    together = overlaps(proposals.boxes[order[0]], proposals.boxes[order]) > MAX_OVERLAP
    together[0] = True
    weights = proposals.scores[order[together]]
    scores.append(weights[0])
    shapes.append(np.average(proposals.shapes[order[together]], axis=0, weights=weights))
    order = order[~together]
  if not scores:
    return proposals
  return Proposals(np.array(scores), np.stack(shapes))


def overlaps(box: Float[np.ndarray, "4"], boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
  """Computes the intersection over union of a box with each of the others; all are (low, low, high, high)."""
  sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
  common = np.prod(np.maximum(sides, 0), axis=1)
  return common / (np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - common)


def _confirmed(image: Image.Image, proposals: Proposals, least: float) -> list[Face]:
  """Returns the proposals that the mesh takes for faces with log-odds of `least`, the largest first."""
  found: list[tuple[float, Face]] = []
  for score, shape in list(zip(proposals.scores, proposals.shapes, strict=True))[:MAX_PROPOSALS]:
    across = shape[3] - shape[2]  # from eye to eye
    side = mesh.CROP_MARGIN * float(max(shape[1] - shape[0]))
    centre, turn = (shape[0] + shape[1]) / 2, math.atan2(across[1], across[0])
    points, presence = mesh.locate(image, centre, side, turn)
    if presence < CERTAIN:  # the detector may take a chin for a forehead
      other, its_presence = mesh.locate(image, centre, side, turn + math.pi)
      if its_presence > max(presence, SURE):
        points, presence = other, its_presence
    if presence >= least:
      points = mesh.refine(image, points)
      found.append((presence, Face(mesh.face_box(points), float(score), points)))
  found.sort(key=lambda entry: -entry[0])
  faces: list[Face] = []
  for _, face in found:
    boxes = np.array([_corners(other.box) for other in faces]).reshape(-1, 4)
    if not (overlaps(np.array(_corners(face.box)), boxes) > MAX_OVERLAP).any():
      faces.append(face)
  return sorted(faces, key=lambda face: -face.area)


def _corners(box: Box) -> tuple[float, float, float, float]:
  y1, y2, x1, x2 = box
  return y1, x1, y2, x2


def _turned_over(face: Face, size: tuple[int, int]) -> Face:
  """Returns a face of the picture upside down as it is in the picture of size (width, height)."""
  width, height = size
  y1, y2, x1, x2 = face.box
  points = face.points * np.array([-1, -1, 1], np.float32) + np.array([width, height, 0], np.float32)
  return Face((height - y2, height - y1, width - x2, width - x1), face.score, points)
