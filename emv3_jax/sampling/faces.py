"""Where the face is in the pictures of a request: the face mask, and the region that lip-sync draws.

With `sampling.face_mask` `moving` both follow the face through a video that is given; `released` takes one box around
the faces of nine frames for the region, and the face of the first frame for the mask.
"""

from collections.abc import Sequence
import dataclasses
import functools

from absl import logging
import numpy as np

from emv3_jax import geometry
from emv3_jax.conditioning import face as face_lib
from emv3_jax.conditioning import face_boxes, face_track
from emv3_jax.conditioning.face import NoFace
from emv3_jax.conditioning.framing import Framing
from emv3_jax.errors import InputError
from emv3_jax.io import image_files, video_files
from emv3_jax.sampling.settings import Config, Request
from emv3_jax.tasks import ConditionInput, TaskSpec, face_masks


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
  """The pictures of one condition input: uint8 [1 or F, h, w, 3] as read, and their framing."""

  item: ConditionInput
  pictures: np.ndarray
  framing: Framing


class Face:
  """The face in the pictures of a request.

  Args:
    request: names the face box.
    config: names the detector and the setting.
    task: of the request.
    seen: its pictures, in the order of `TaskSpec.condition_inputs`.
    frames, sample_frames: numbers of requested and of sampled frames.
  """

  def __init__(self, request: Request, config: Config, task: TaskSpec, seen: Sequence[Seen],
               frames: int, sample_frames: int):
    self._request, self._task, self._seen = request, task, seen
    self._frames, self._sample_frames = frames, sample_frames
    self._source, self._detector = request.face_box or "auto", config.face_detector or None
    self._moves = config.settings.face_mask == face_masks.MOVING
    self._setting = config.settings.face_mask
    if self._by_frame and not self._of_video:
      raise InputError(f"Face box {self._source} has boxes by frame, which are for a video; task {task.name} has a "
                       "picture. Give y1,y2,x1,x2.")
    if self._by_frame and not self._moves:
      raise InputError(f"Face box {self._source} has boxes by frame; with sampling.face_mask=released one box serves "
                       "all frames. Give y1,y2,x1,x2 or auto.")

  @property
  def _of_video(self) -> bool:
    return self._seen[0].item.request_field == "video"

  @functools.cached_property
  def _by_frame(self) -> bool:
    return face_boxes.is_by_frame(self._source)

  def mouth_mask(self) -> np.ndarray:
    """Computes the region that is inpainted, bool [F, H, W].

    Raises:
      InputError: no face is found, or its box cannot be used.
    """
    framing = self._seen[0].framing
    if self._moves and (self._by_frame or self._source == "auto"):
      regions = face_boxes.mouth_regions(self._boxes, framing.crop[2:], framing.size)
    else:
      box = _in_crop(self._around(), framing)
      regions = face_boxes.mouth_regions(face_boxes.as_boxes(box), (box.height, box.width), framing.size)
    return np.broadcast_to(regions, (self._sample_frames, *framing.size))

  def audio_mask(self) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Computes the token boxes uint16 [F, 4] and the face mask float32 [h*w] or [h*w, f]; None for `none`.

    Raises:
      InputError: as `mouth_mask`, or the face covers no token.
    """
    framing = self._seen[0].framing
    if self._moves and self._of_video and (self._by_frame or self._source == "auto"):
      tokens = self._rounded(self._boxes, framing)
    else:
      first = self._box_of(self._seen[0])
      if first is None:
        return None, None
      tokens = np.repeat(self._rounded(first, framing), self._sample_frames, axis=0)
      for other in self._seen[1:] if self._moves and self._source == "auto" else ():
        box = self._box_of(other)
        assert box is not None  # not `none`
        tokens[other.item.frames(self._frames, self._sample_frames)] = self._rounded(box, other.framing)
    known = face_masks.known_boxes(self._task, tokens, self._setting, self._frames)
    if (known == known[:1]).all():
      known = known[:1]  # the program of a mask that stays serves it
    return tokens, face_masks.token_mask(known, geometry.token_grid(framing.size))

  @functools.cached_property
  def _boxes(self) -> np.ndarray:
    """Boxes by frame in pixels of the crop, float64 [F, 4]."""
    framing = self._seen[0].framing
    if self._source == "auto":
      return face_boxes.framed(self._track, framing, f"The face in {self._request.video}")
    assert self._request.video is not None  # boxes by frame are for a video
    shown, count = video_files.frame_numbers(self._request.video)
    shown = shown[np.minimum(np.arange(self._sample_frames), len(shown) - 1)]  # the last frame is repeated
    boxes = face_boxes.read_boxes(self._source, framing.source_height, framing.source_width, count)
    name = f"Face box {self._source}"
    missing = np.array(np.isnan(boxes[shown]).any(axis=1))
    if missing.any():
      logging.warning("%s: no box for %s; a straight line between the boxes around is taken.", name,
                      face_boxes.spans(missing))
    return face_boxes.framed(face_boxes.bridged(boxes[shown], name), framing, name)

  @functools.cached_property
  def _track(self) -> np.ndarray:
    """Boxes by frame of the face that is found in the video, in its pixels, float64 [F, 4]."""
    boxes, report = face_track.follow(self._seen[0].pictures, self._detector)
    report.check(str(self._request.video))
    tell = logging.info if report.is_plain else logging.warning
    tell("%s: %s, within %s.", self._request.video, report,
         face_boxes.shown(np.rint(face_masks.around(boxes)[0])))
    return boxes

  def _tracked(self, frames: slice | np.ndarray) -> face_lib.FaceBox:
    """Returns the box around the face that is found in these frames of the video."""
    height, width = self._seen[0].pictures.shape[1:3]
    y1, y2, x1, x2 = np.rint(face_masks.around(self._track[frames])[0]).astype(int).tolist()
    return face_lib.FaceBox(max(y1, 0), min(y2, height), max(x1, 0), min(x2, width), height, width)

  def _around(self) -> face_lib.FaceBox:
    """Returns the box that is given, or the one around the faces of nine frames."""
    pictures = self._seen[0].pictures
    if self._source == "auto":
      return self._tracked(face_masks.sampled_frames(len(pictures)))
    box = face_lib.parse_face_box(self._source, pictures[0], self._detector, optional=False)
    assert box is not None  # not optional
    return box

  def _box_of(self, seen: Seen) -> face_lib.FaceBox | None:
    """Returns the face of the first picture of a condition input; None for `none`."""
    if self._source == "auto" and self._of_video:
      return _in_crop(self._tracked(slice(1)), seen.framing)
    picture, path = seen.pictures[0], getattr(self._request, seen.item.request_field)
    if self._source != "auto" and self._request.image is not None:  # in pixels of the file, which may be larger
      picture = np.broadcast_to(np.uint8(0), (*image_files.upright_size(self._request.image), 3))
    # A task that inpaints the mouth has found and logged the face already.
    optional = not self._task.inpaints_mouth
    try:
      box = face_lib.parse_face_box(self._source, picture, self._detector, optional=optional)
    except NoFace as error:
      if seen is self._seen[0]:
        raise
      raise NoFace(f"{path}: {error} A box that is given is that of both pictures.", error.size) from None
    if self._source == "auto" and optional:
      logging.info("Face found at %s%s.", box, "" if seen is self._seen[0] else f" of {path}")
    return None if box is None else _in_crop(box, seen.framing)

  def _rounded(self, boxes: np.ndarray | face_lib.FaceBox, framing: Framing) -> np.ndarray:
    """Rounds boxes to tokens, uint16 [n, 4]."""
    picture = framing.crop[2:]
    if isinstance(boxes, face_lib.FaceBox):
      boxes, picture = face_boxes.as_boxes(boxes), (boxes.height, boxes.width)
    return face_boxes.token_boxes(boxes, picture, framing.size, optional=not self._task.inpaints_mouth)


def _in_crop(box: face_lib.FaceBox, framing: Framing) -> face_lib.FaceBox:
  return box if framing.is_whole else framing.box(box)
