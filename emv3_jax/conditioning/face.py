"""Face detection, face boxes, and the masks that are computed from them."""

import dataclasses
import math
import os
import sys

from absl import logging
from jaxtyping import Float64, UInt8
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.faces import detect
from emv3_jax.faces.detect import Face
from emv3_jax.faces.mesh import Box

MAX_ROLL = 45  # degrees; a face that is turned further is told
MAX_ASPECT_ERROR = 0.05  # log ratio, between an image and the image that a stored box was made for


class NoFace(InputError):
  """No face was found in a picture.

  Attributes:
    size: (height, width) of the picture in pixels.
  """

  def __init__(self, message: str, size: tuple[int, int]):
    super().__init__(message)
    self.size = size


@dataclasses.dataclass(frozen=True)
class FaceBox:
  """A face box in pixels: rows y1 to y2 and columns x1 to x2 (ends excluded) of an image of the given
  height and width.

  Raises:
    InputError: the box is reversed, empty, or not inside the image.
  """

  y1: float | int
  y2: float | int
  x1: float | int
  x2: float | int
  height: int
  width: int

  def __str__(self) -> str:
    return f"y1={self.y1:g}, y2={self.y2:g}, x1={self.x1:g}, x2={self.x2:g}"

  def __post_init__(self):
    inside = 0 <= self.y1 < self.y2 <= self.height and 0 <= self.x1 < self.x2 <= self.width
    if inside:
      return
    box = f"Face box {self}"
    if self.y1 >= self.y2 or self.x1 >= self.x2:
      raise InputError(f"{box} is reversed or empty; wanted y1,y2,x1,x2 with y1 < y2 and x1 < x2.")
    raise InputError(f"{box} is outside the image of {self.height} rows and {self.width} columns.")


def parse_face_box(source: str, image: UInt8[np.ndarray, "H W 3"],
                   detector: str | os.PathLike | None = None, *,
                   optional: bool = True) -> FaceBox | None:
  """Parses the face box of a request.

  Args:
    source: `y1,y2,x1,x2` in pixels of `image`; a `.npy` file of the reference with
      `[y1, y2, x1, x2, image height, image width]`; `auto` for face detection; `none`.
    image: the portrait as read, before resizing.
    detector: for `auto`, see `detect_face`.
    optional: whether `none` is allowed; messages suggest it only then.

  Returns:
    The box, or None for `none`: the voice then drives the whole picture.

  Raises:
    InputError: the value is none of these, the box is reversed, outside the image or of another image,
      or no face is found.
  """
  height, width = image.shape[:2]
  if source == "none" and optional:
    return None
  if source == "auto":
    try:
      return detect_face(image, detector)
    except NoFace as error:
      if not optional:
        raise
      raise NoFace(f"{error} `none` lets the voice drive the whole picture.", error.size) from None
  if source.endswith(".npy"):
    return _read_box(source, height, width)
  return FaceBox(*parse_numbers(source, optional=optional), height, width)


def parse_numbers(source: str, *, optional: bool = True) -> tuple[float, float, float, float]:
  """Parses the four numbers of `y1,y2,x1,x2` and checks them as far as possible without the picture.

  Args:
    source: value of the request.
    optional: as in `parse_face_box`.

  Raises:
    InputError: they are not four finite numbers >= 0, or the box is reversed or empty.
  """
  try:
    y1, y2, x1, x2 = (float(part) for part in source.split(","))
  except ValueError:
    raise InputError(f"Face box {source!r}: wanted four numbers y1,y2,x1,x2, a .npy file"
                     f"{', auto or none' if optional else ' or auto'}.") from None
  if not all(math.isfinite(edge) and edge >= 0 for edge in (y1, y2, x1, x2)):
    raise InputError(f"Face box {source!r} is outside of any image; its numbers are rows and columns, from 0 on.")
  FaceBox(y1, y2, x1, x2, sys.maxsize, sys.maxsize)
  return y1, y2, x1, x2


def _read_box(path: str, height: int, width: int) -> FaceBox:
  if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would block
    raise InputError(f"Face box {path} is not a regular file.")
  try:
    with open(path, "rb") as file:
      values = np.lib.format.read_array(file, allow_pickle=False)
  except OSError as error:
    raise InputError(f"Face box {path}: {error.strerror}.") from None
  except ValueError as error:
    raise InputError(f"Face box {path} is not an array of numbers ({error}).") from None
  if values.shape != (6,) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
    raise InputError(f"Face box {path} holds {values.dtype} {list(values.shape)}; wanted six "
                     "numbers [y1, y2, x1, x2, image height, image width].")
  y1, y2, x1, x2, made_for_height, made_for_width = values.tolist()
  found = FaceBox(y1, y2, x1, x2, int(made_for_height), int(made_for_width))
  aspect = (found.height / found.width) / (height / width)
  if abs(math.log(aspect)) > MAX_ASPECT_ERROR:
    raise InputError(f"Face box {path} was made for an image of {found.width}x{found.height} "
                     f"pixels; this image has {width}x{height}, another aspect ratio.")
  return found


def detect_face(image: UInt8[np.ndarray, "H W 3"],
                model: str | os.PathLike | None = None) -> FaceBox:
  """Detects the largest face of an image.

  The default is BlazeFace with the face mesh, see `emv3_jax.faces`: any face of at least 2 % of the longer
  side, tilted or turned, and many drawn ones. The box reaches from hair line to chin and from ear to ear.
  Logs that there are several faces, or that the face is not upright.

  Args:
    image: uint8 RGB.
    model: an ONNX file of OpenCV's YuNet, which replaces the default (needs OpenCV).

  Raises:
    NoFace: no face is found.
    InputError: OpenCV or the model file is missing.
  """
  height, width = image.shape[:2]
  faces: list[Face] = []
  if model is None:
    faces = detect.find(image)
    found = [face.box for face in faces]
  else:
    found = _detect_by_yunet(image, model)
  inside = [box for box in (_inside(edges, height, width) for edges in found) if box is not None]
  if not inside:
    tried = f" by {model}" if model else ", searched whole, in parts and upside down"
    raise NoFace(f"No face found in the image of {width}x{height} pixels{tried}.\n"
                 "Give the face box as y1,y2,x1,x2 (--face_box, or face_box in a file).", (height, width))
  largest = max(inside, key=lambda box: (box.y2 - box.y1) * (box.x2 - box.x1))
  if len(inside) > 1:
    logging.info("%d faces found; the largest is taken, at %s.", len(inside), largest)
  if faces and abs(faces[0].roll) > MAX_ROLL:
    logging.warning("The face at %s is turned by %.0f degrees; turn the picture so that it is upright.", largest,
                    faces[0].roll)
  return largest


def find_boxes(image: UInt8[np.ndarray, "H W 3"], model: str | os.PathLike | None = None,
               closely: bool = True) -> Float64[np.ndarray, "n 4"]:
  """Finds all faces of an image, for a track over a video.

  Args:
    image: uint8 RGB.
    model: see `detect_face`.
    closely: see `emv3_jax.faces.detect.find`; YuNet has one search only.

  Returns:
    (y1, y2, x1, x2) in pixels; a box may reach beyond the image.

  Raises:
    InputError: OpenCV or the model file is missing.
  """
  found = [face.box for face in detect.find(image, closely)] if model is None else _detect_by_yunet(image, model)
  return np.array(found, np.float64).reshape(-1, 4)


def _inside(edges: Box, height: int, width: int) -> FaceBox | None:
  """Returns the box in whole pixels of the image; None if nothing of it is inside."""
  y1, y2, x1, x2 = (round(edge) for edge in edges)
  y1, y2, x1, x2 = max(y1, 0), min(y2, height), max(x1, 0), min(x2, width)
  return FaceBox(y1, y2, x1, x2, height, width) if y1 < y2 and x1 < x2 else None


def _detect_by_yunet(image: np.ndarray, model) -> list[Box]:
  try:
    import cv2
  except ImportError:
    raise InputError(f"Face detector {model} needs OpenCV, which is not installed: "
                     "pip install opencv-python-headless") from None
  if not os.path.isfile(model):
    raise InputError(f"Face detector {model}: no such file.")
  height, width = image.shape[:2]
  try:
    yunet = cv2.FaceDetectorYN.create(os.fspath(model), "", (width, height))
    _, faces = yunet.detect(np.ascontiguousarray(image[..., ::-1]))
  except cv2.error as error:
    raise InputError(f"Face detector {model} is no YuNet model: {error}") from None
  return [(y, y + h, x, x + w) for x, y, w, h in ([] if faces is None else faces[:, :4].tolist())]
