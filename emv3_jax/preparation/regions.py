"""Where face and mouth are in a window: from boxes of the manifest, or from faces that are found."""

from collections.abc import Mapping
import dataclasses
import functools

from absl import logging
import numpy as np

from emv3_jax import geometry
from emv3_jax.conditioning import face as face_lib
from emv3_jax.conditioning import face_boxes, face_track
from emv3_jax.conditioning.framing import Framing
from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.preparation.manifest import Clip
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.tasks import face_masks


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
  """Face and mouth in a window of size (H, W); n = F boxes by frame, or n = 1 for all frames.

  Masks are computed when they are asked for: those of many windows would not fit into memory.

  Attributes:
    face: float64 [n, 4], boxes in pixels; None without one, then the audio acts everywhere.
    mouth: likewise; None takes the lower part of the face.
    face_picture, crop: (height, width) of the picture that `face` is in, and of the crop, which `mouth` is in.
    size: (H, W).
    fraction: lower part of the face box that lip-sync inpaints.
    start: first frame of the window, for messages.
  """

  face: np.ndarray | None
  mouth: np.ndarray | None
  face_picture: tuple[int, int]
  crop: tuple[int, int]
  size: tuple[int, int]
  fraction: float
  start: int = 0

  def face_tokens(self) -> np.ndarray:
    """Computes the token boxes of the face, uint16 [n, 4]; all tokens without a face.

    Raises:
      InputError: a box covers no token.
    """
    if self.face is None:
      rows, columns = geometry.token_grid(self.size)
      return np.array([[0, rows, 0, columns]], np.uint16)
    return face_boxes.token_boxes(self.face, self.face_picture, self.size, first=self.start)

  def inpainted(self) -> np.ndarray:
    """Computes the region that lip-sync inpaints, bool [n, H, W]: lower part of the face, and mouth."""
    if self.face is None or self.mouth is None:
      return self.mouth_region()
    return self._lower_face(self.face) | self.mouth_region()

  def mouth_region(self) -> np.ndarray:
    """Computes the mouth region, bool [n, H, W]."""
    if self.mouth is not None:
      return face_boxes.mouth_regions(self.mouth, self.crop, self.size, 1.0, self.start)
    assert self.face is not None  # RegionFinder refuses a window without both
    return self._lower_face(self.face)

  def _lower_face(self, face: np.ndarray) -> np.ndarray:
    return face_boxes.mouth_regions(face, self.face_picture, self.size, self.fraction, self.start)


class RegionFinder:
  """Finds face and mouth in the windows of a clip.

  Args:
    clip: line of the manifest.
    framing: of its pictures.
    settings: of the windows.
    found: boxes [n, 4] of the faces that a detector found, in pixels of the windows' size, by the number of the
      frame; frames that it did not look at are left out.

  Raises:
    InputError: boxes that cannot be used.
  """

  def __init__(self, clip: Clip, framing: Framing, settings: PrepareConfig, found: Mapping[int, np.ndarray]):
    self._clip, self._framing, self._settings, self._found = clip, framing, settings, found
    if clip.mouth_box in ("auto", "none"):
      raise InputError(f"mouth_box {clip.mouth_box!r}: wanted y1,y2,x1,x2, or leave it out.")
    given = {"face_box": clip.face_box if clip.face_box not in ("auto", "none") else "", "mouth_box": clip.mouth_box}
    self._boxes = {name: self._read(name, text) for name, text in given.items() if text}

  def regions(self, start: int) -> Regions:
    """Finds face and mouth in the window that begins at frame `start`.

    Args:
      start: first frame at 25 frames a second.

    Raises:
      InputError: no face is found, frames without a box, a box outside the picture or too small.
    """
    settings, framing = self._settings, self._framing
    boxes = {name: self._of_window(name, start) for name in self._boxes}
    face, picture = boxes.get("face_box"), framing.crop[2:]
    if self._clip.face_box == "auto":
      face, picture = self._detected(start), framing.size
    found = Regions(face, boxes.get("mouth_box"), picture, framing.crop[2:], framing.size,
                    settings.mouth_fraction, start)
    if face is None and found.mouth is None or not found.mouth_region().any():
      raise InputError(f"Clip {self._clip.id}: face_box none needs a mouth_box; give one, or auto.")
    found.face_tokens()  # a face that is too small is refused here
    return found

  def _read(self, name: str, text: str) -> np.ndarray:
    """Reads one box [1, 4] in pixels of the crop, or boxes of all frames, at 25 a second, in pixels of the source."""
    framing = self._framing
    height, width = framing.source_height, framing.source_width
    if face_boxes.is_by_frame(text):
      shown, frames = self._frame_numbers
      return face_boxes.read_boxes(text, height, width, frames, name)[shown]
    blank = np.broadcast_to(np.uint8(0), (height, width, 3))
    try:
      box = face_lib.parse_face_box(text, blank)
      assert box is not None  # not `none`
      return face_boxes.as_boxes(framing.box(box))
    except InputError as error:
      advice = " Sizes are those of --config.prepare.sizes." if "centre crop" in str(error) else ""
      raise InputError(f"{name}: {error}{advice}") from None

  @functools.cached_property
  def _frame_numbers(self) -> tuple[np.ndarray, int]:
    return video_files.frame_numbers(self._clip.video)

  def _of_window(self, name: str, start: int) -> np.ndarray:
    """Returns boxes in pixels of the crop: [F, 4], or [1, 4] for one in all frames."""
    boxes, settings = self._boxes[name], self._settings
    if len(boxes) == 1:  # of one frame only, a video would be too short
      return boxes
    boxes = face_boxes.bridged(boxes[start:start + settings.frames], name, start)
    framed = face_boxes.framed(boxes, self._framing, name, start, logging.info)
    height, width = self._framing.crop[2:]
    still = settings.face_mask == face_masks.RELEASED
    return self._summed(np.clip(framed, 0, [height, height, width, width]) if still else framed)

  def _detected(self, start: int) -> np.ndarray:
    """Follows the face through a window, in pixels of its size."""
    frames = range(start, start + self._settings.frames)
    boxes, report = face_track.join([self._found.get(number) for number in frames], self._framing.size, first=start)
    report.check(str(self._clip.video))
    if not report.is_plain:
      logging.info("Clip %s, frames %d-%d: %s.", self._clip.id, frames[0], frames[-1], report)
    return self._summed(boxes)

  def _summed(self, boxes: np.ndarray) -> np.ndarray:
    """Returns the boxes as the setting has them: by frame, or one around those of nine frames."""
    if self._settings.face_mask == face_masks.MOVING:
      return boxes
    return face_masks.around(boxes[face_masks.sampled_frames(len(boxes))])
