"""The face of a video: one box a frame, and a report on the frames in which it was not found."""

from collections.abc import Iterable
import dataclasses
import os

from jaxtyping import Float64, Int
import numpy as np

from emv3_jax.conditioning import face
from emv3_jax.conditioning.face import NoFace
from emv3_jax.faces import track as track_lib
from emv3_jax.faces.track import Spans
from emv3_jax.geometry import FPS, FRAMES

EVERY = FRAMES  # a detector looks at one frame of each latent frame
# Where no face is found the detector looks at parts of the picture only now and then, because that takes ten
# times as long: in the first of so many looks in a row, and in all of the first ones if the face was small.
CLOSE_LOOKS, SMALL = 8, 0.08  # height of the face over the longer side of the picture
LEAST_MOUTH = 0.5  # share of the lower half of the box; with less in the picture the mouth counts as outside


@dataclasses.dataclass(frozen=True)
class TrackReport:
  """What is to be said about a track. Spans are (first frame, frame after the last).

  Attributes:
    frames: number of frames of the video.
    looked, found: frames that the detector looked at, and those in which it found the face.
    bridged: spans in which the face was not found, with boxes by interpolation.
    lost: spans without the face that are longer than what is bridged.
    jumps: frames in which the face continues elsewhere, as after a cut.
    outside: spans in which most of the mouth's region is outside the picture.
    others: number of other faces.
    size: (height, width) of the pictures.
    first: number of the first frame, for messages.
  """

  frames: int
  looked: int
  found: int
  bridged: Spans
  lost: Spans
  jumps: tuple[int, ...]
  outside: Spans
  others: int
  size: tuple[int, int]
  first: int = 0

  def __str__(self) -> str:
    said = [f"face found in {self.found} of {self.looked} pictures that were looked at"]
    for text, spans in (("bridged", self.bridged), ("lost", self.lost), ("mouth outside the picture", self.outside)):
      if spans:
        said.append(f"{text}: {self._named(spans)}")
    if self.jumps:
      said.append(f"at another place from frame {', '.join(str(self.first + frame) for frame in self.jumps)} on, as after a cut")
    if self.others:
      said.append(f"{self.others} other face{'s' if self.others > 1 else ''}, smaller or there for a shorter time")
    return "; ".join(said)

  @property
  def is_plain(self) -> bool:
    """Whether the face was found wherever it was looked for, once and in the picture."""
    return not (self.bridged or self.lost or self.jumps or self.outside or self.others)

  def check(self, what: str) -> None:
    """Checks that every frame has a box.

    Args:
      what: name of the video, in the message.

    Raises:
      NoFace: the face is lost.
    """
    if not self.found:
      height, width = self.size
      raise NoFace(f"No face found in {what}: {self.looked} of its {self.frames} pictures ({width}x{height}) were "
                   "searched.\nGive the face box as y1,y2,x1,x2 (--face_box, or face_box in a file).", self.size)
    if self.lost:
      raise NoFace(f"The face is lost in {what} in {self._named(self.lost)}; at most "
                   f"{track_lib.MAX_GAP:g} s are bridged.\nLeave these frames out, or give the face box "
                   "(--face_box, or face_box in a file).", self.size)

  def _named(self, spans: Spans) -> str:
    numbered = [(self.first + first, self.first + end - 1) for first, end in spans]
    named = [f"{first}" if first == last else f"{first}-{last}" for first, last in numbered]
    return f"frames {', '.join(named[:6])}{' ...' if len(named) > 6 else ''}"


def track(pictures: Iterable[np.ndarray], detector: str | os.PathLike | None = None, *,
          every: int = EVERY, fps: float = FPS) -> tuple[Int[np.ndarray, "frames 4"], TrackReport]:
  """Follows the face of a video.

  Args:
    pictures: uint8 RGB [H, W, 3], all frames in order; they are looked at one by one and not kept.
    detector: see `face.detect_face`.
    every: the detector looks at every so many frames, and at the last one.
    fps: frames a second.

  Returns:
    boxes (y1, y2, x1, x2), ends excluded, inside the picture; where the face is lost the nearest box, and zeros
    where there is none (see `TrackReport.check`); the report.

  Raises:
    InputError: OpenCV or the model file is missing.
  """
  boxes, report = follow(pictures, detector, every=every, fps=fps)
  height, width = report.size
  clipped = np.clip(np.rint(boxes), 0, [height, height, width, width]).astype(np.int64)
  return clipped, report


def follow(pictures: Iterable[np.ndarray], detector: str | os.PathLike | None = None, *,
           every: int = EVERY, fps: float = FPS) -> tuple[Float64[np.ndarray, "frames 4"], TrackReport]:
  """Follows the face of a video as `track` does; the boxes are not rounded and may reach beyond the picture."""
  detections, last, size, look = [], None, (0, 0), Look(detector)
  for number, picture in enumerate(pictures):
    looks = number % every == 0
    detections.append(look(picture) if looks else None)
    last, size = None if looks else picture, picture.shape[:2]
  if last is not None:
    detections[-1] = look(last)
  return join(detections, size, fps)


class Look:
  """Looks for faces in one picture of a video after another; each call returns the boxes of a picture.

  Args:
    detector: see `face.detect_face`.
  """

  def __init__(self, detector: str | os.PathLike | None):
    self._detector, self._misses, self._small = detector, 0, True

  def __call__(self, picture: np.ndarray) -> Float64[np.ndarray, "n 4"]:
    closely = self._misses % CLOSE_LOOKS == 0 or self._small and self._misses < CLOSE_LOOKS
    boxes = face.find_boxes(picture, self._detector, closely)
    self._misses = 0 if len(boxes) else self._misses + 1
    if len(boxes):
      self._small = bool((boxes[:, 1] - boxes[:, 0]).max() < SMALL * max(picture.shape[:2]))
    return boxes


def join(detections: list[np.ndarray | None], size: tuple[int, int], fps: float = FPS, *,
         first: int = 0) -> tuple[Float64[np.ndarray, "frames 4"], TrackReport]:
  """Joins the boxes of single frames to one box a frame.

  Args:
    detections: for each frame boxes [n, 4] (y1, y2, x1, x2) in pixels, n = 0 where no face was found; None for
      frames that were not looked at. Given boxes are joined alike.
    size: (height, width) of the pictures.
    fps: frames a second.
    first: number of the first frame, for messages.

  Returns:
    boxes in pixels, which may reach beyond the picture; the report.
  """
  found = track_lib.follow(detections, fps)
  looked = sum(boxes is not None for boxes in detections)
  outside = track_lib.spans(_mouth_share(found.boxes, size) < LEAST_MOUTH) if found.found.any() else ()
  report = TrackReport(len(detections), looked, int(found.found.sum()), found.bridged, found.lost, found.jumps,
                       outside, found.others, size, first)
  return found.boxes, report


def _mouth_share(boxes: np.ndarray, size: tuple[int, int]) -> Float64[np.ndarray, "frames"]:
  """Computes the share of the lower half of each box that is inside the picture."""
  height, width = size
  y1, y2, x1, x2 = boxes.T
  rows = np.clip(np.minimum(y2, height) - np.maximum((y1 + y2) / 2, 0), 0, None) / ((y2 - y1) / 2)
  columns = np.clip(np.minimum(x2, width) - np.maximum(x1, 0), 0, None) / (x2 - x1)
  return rows * columns
