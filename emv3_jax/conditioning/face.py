"""Where the face is, and the masks that follow from it."""

import dataclasses
import functools
import math
import os
import sys

from jaxtyping import Bool, Float32, UInt8
import numpy as np
from PIL import Image

from emv3_jax.errors import InputError
from emv3_jax.geometry import TOKEN, token_grid

# Search from coarse to fine: (longer side that the image is resized to, step between windows,
# neighbouring hits that make a face). With looser settings textures pass for faces.
SEARCHES = ((160, 1, 12), (320, 2, 4), (640, 2, 4))
SMALLEST_FACE = 24  # pixels at that size, the cascade's own window

# The cascade's square spans the brows to the lips. A released box spans the hair line to the chin
# or more; these factors of the square's side lie between the two boxes released with portraits.
BOX_HEIGHT, BOX_WIDTH, BOX_DOWN = 1.35, 1.05, 0.1

LARGEST_ASPECT_ERROR = 0.05  # between an image and the image that a stored box was made for


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
  """A face in pixels, rows y1 to y2 and columns x1 to x2 (ends excluded), of an image of the given
  height and width.

  Raises:
    InputError: reversed, empty, or not inside the image.
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
  """The face box that a user asks for.

  Args:
    source: `y1,y2,x1,x2` in pixels of `image`; a `.npy` file of the reference, which holds
      `[y1, y2, x1, x2, image height, image width]`; `auto` to look for the face; `none`.
    image: the portrait as read, before resizing.
    detector: for `auto`, see `detect_face`.
    optional: whether `none` may be given; messages advise it only then.

  Returns:
    The box, or None for `none`: the voice then drives the whole picture.

  Raises:
    InputError: none of these, not numbers, reversed, outside, of another image, or no face found.
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
  return FaceBox(*numbers(source, optional=optional), height, width)


def numbers(source: str, *, optional: bool = True) -> tuple[float, float, float, float]:
  """The four numbers of `y1,y2,x1,x2`, as far as they can be judged without the picture.

  Args:
    source: what the user gave.
    optional: as in `parse_face_box`.

  Raises:
    InputError: not four finite numbers from 0 on, or in the wrong order.
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
  if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
    raise InputError(f"Face box {path} is no regular file.")
  try:
    with open(path, "rb") as file:
      values = np.lib.format.read_array(file, allow_pickle=False)
  except OSError as error:
    raise InputError(f"Face box {path}: {error.strerror}.") from None
  except ValueError as error:
    raise InputError(f"Face box {path} is no array of numbers ({error}).") from None
  if values.shape != (6,) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
    raise InputError(f"Face box {path} holds {values.dtype} {list(values.shape)}; wanted six "
                     "numbers [y1, y2, x1, x2, image height, image width].")
  y1, y2, x1, x2, made_for_height, made_for_width = values.tolist()
  found = FaceBox(y1, y2, x1, x2, int(made_for_height), int(made_for_width))
  aspect = (found.height / found.width) / (height / width)
  if abs(math.log(aspect)) > LARGEST_ASPECT_ERROR:
    raise InputError(f"Face box {path} was made for an image of {found.width}x{found.height} "
                     f"pixels; this one has {width}x{height}, another shape.")
  return found


def detect_face(image: UInt8[np.ndarray, "H W 3"],
                model: str | os.PathLike | None = None) -> FaceBox:
  """The largest face of an image.

  By default scikit-image's local binary pattern cascade, frontal faces of at least 4 % of the
  longer side. Give it an upright frontal portrait; it misses profiles and drawings.

  Args:
    image: uint8 RGB.
    model: an ONNX file of OpenCV's YuNet, which is used instead if given (needs OpenCV).

  Raises:
    NoFace: there is none.
    InputError: OpenCV or the model file missing.
  """
  found = _detect_by_cascade(image) if model is None else _detect_by_yunet(image, model)
  height, width = image.shape[:2]
  if not found:
    raise NoFace(f"No face found in the image of {width}x{height} pixels.\n"
                 "Give the face box as y1,y2,x1,x2.", (height, width))
  y1, y2, x1, x2 = max(found, key=lambda box: (box[1] - box[0]) * (box[3] - box[2]))
  box = FaceBox(max(round(y1), 0), min(round(y2), height),
                max(round(x1), 0), min(round(x2), width), height, width)
  return box


def _detect_by_cascade(image: np.ndarray) -> list[tuple[float, float, float, float]]:
  """Boxes (y1, y2, x1, x2) in pixels of `image`, of the coarsest search that finds any."""
  height, width = image.shape[:2]
  for side, step, neighbours in SEARCHES:
    scale = side / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if min(size) < SMALLEST_FACE:
      continue
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    squares = _cascade().detect_multi_scale(
        img=resized, scale_factor=1.1, step_ratio=step, min_neighbor_number=neighbours,
        min_size=(SMALLEST_FACE, SMALLEST_FACE), max_size=(side, side))
    if squares:
      return [_widen(square, scale) for square in squares]
  return []


@functools.cache
def _cascade():
  from skimage import data, feature  # slow to import, needed for `auto` alone
  return feature.Cascade(data.lbp_frontal_face_cascade_filename())


def _widen(square: dict, scale: float) -> tuple[float, float, float, float]:
  side = square["height"] / scale
  y = square["r"] / scale + (0.5 + BOX_DOWN) * side
  x = (square["c"] + square["width"] / 2) / scale
  return (y - BOX_HEIGHT / 2 * side, y + BOX_HEIGHT / 2 * side,
          x - BOX_WIDTH / 2 * side, x + BOX_WIDTH / 2 * side)


def _detect_by_yunet(image: np.ndarray, model) -> list[tuple[float, float, float, float]]:
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


def face_mask(box: FaceBox, size: tuple[int, int], *, optional: bool = True) -> Float32[np.ndarray, "hw"]:
  """M_face of eq. 1 by token: 1 on the face, 0 elsewhere, rows of the token grid one by one.

  As in the reference the box is scaled by the square root of the areas' ratio, the same for both
  axes though a resized image may have another aspect ratio, and each edge is floored to tokens.

  Args:
    box: the face in pixels of the portrait.
    size: (H, W) sampled at, in pixels.
    optional: as in `parse_face_box`.

  Raises:
    InputError: the face covers no whole token row or column, so that the voice would drive nothing.
  """
  height, width = size
  ratio = math.sqrt(height * width / (box.height * box.width))
  y1, y2, x1, x2 = (edge * ratio // TOKEN for edge in (box.y1, box.y2, box.x1, box.x2))
  rows, columns = token_grid(size)
  y, x = np.mgrid[:rows, :columns]
  mask = (y >= y1) & (y < y2) & (x >= x1) & (x < x2)
  if not mask.any():
    raise InputError(f"The face is too small for sampling at {width}x{height}: it covers no "
                     f"cell of {TOKEN}x{TOKEN} pixels. Give a larger face box"
                     f"{' or none' if optional else ''}.")
  return mask.astype(np.float32).reshape(-1)


def mouth_region(box: FaceBox, size: tuple[int, int], fraction: float = 0.5
                 ) -> Bool[np.ndarray, "H W"]:
  """What lip-sync draws anew: the lower `fraction` of the face box, in its full width.

  The lower half holds the mouth, the chin and the cheeks that move with them.

  Args:
    box: the face in pixels of the source.
    size: (H, W) sampled at, in pixels; the source was resized to it.
    fraction: of the box's height, in (0, 1].
  """
  height, width = size
  top = box.y2 - fraction * (box.y2 - box.y1)
  y1, y2 = top * height / box.height, box.y2 * height / box.height
  x1, x2 = box.x1 * width / box.width, box.x2 * width / box.width
  y, x = np.mgrid[:height, :width] + 0.5  # a pixel belongs to the region if its centre does
  return (y >= y1) & (y < y2) & (x >= x1) & (x < x2)
