"""What a task is: what it is given of the video, and all that follows from that."""

from collections.abc import Callable
import dataclasses
import enum

import numpy as np

from emv3_jax.tasks import masks


class ClipPicture(enum.IntEnum):
  """The picture that CLIP encodes; the number is its place in the array `image` of a record."""

  FIRST = 0  # the first picture that is given
  FIRST_GREYED = 1  # the same with what lip-sync draws anew in mid grey


@dataclasses.dataclass(frozen=True)
class Given:
  """A part of the video that a request gives.

  Attributes:
    input: field of the request that names the file: `image` or `last_image`, a picture that is held
      over its frames, or `video`, each of whose frames stands in its own place.
    frames: (frames asked for, frames sampled) -> the slice of the sampled frames that it gives.
      Frames sampled are the next 4k + 1; in training both numbers are the same.
  """

  input: str
  frames: Callable[[int, int], slice]


@dataclasses.dataclass(frozen=True)
class TaskSpec:
  """A task.

  Attributes:
    name: in configs, command lines, records and reports.
    given: what a request gives of the video, in the order of the frames; the first one sets the size.
    clip_picture: what CLIP encodes; None: nothing, its states are zeros.
    finds_face: whether a face is looked for in the first picture, so that audio acts there; else audio
      acts in the whole picture. In training likewise.
    redraws_mouth: whether the mouth region is unknown in every frame. The face has to be found then.
    finish: (frames, source, mouth) -> frames, all as in `pasting.paste`, of a task that redraws the
      mouth: applied to the decoded clip unless the request says otherwise. None: nothing.
    slot: place in the array `masked_latents` of records that are for all tasks. None: records do not
      hold what the task knows. It is trained on all records then only if it knows nothing, else on
      those that name it as their task.

  Raises:
    ValueError: a finish without a mouth region.
  """

  name: str
  given: tuple[Given, ...] = ()
  clip_picture: ClipPicture | None = None
  finds_face: bool = False
  redraws_mouth: bool = False
  finish: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
  slot: int | None = None

  def __post_init__(self):
    if self.finish is not None and not self.redraws_mouth:
      raise ValueError(f"Task {self.name}: finish needs the region of a task that redraws the mouth.")

  @property
  def inputs(self) -> tuple[str, ...]:
    """Fields of the request that have to name a file."""
    return tuple(given.input for given in self.given)

  @property
  def is_trainable(self) -> bool:
    """Whether records that are for all tasks hold what this one needs."""
    return self.slot is not None or not self.given

  def known_frames(self, frames: int, sample_frames: int | None = None) -> np.ndarray:
    """bool [F]: frames of which something is given.

    Args:
      frames: asked for.
      sample_frames: F, those that are sampled; None: as many.
    """
    sample_frames = frames if sample_frames is None else sample_frames
    known = np.zeros(sample_frames, bool)
    for given in self.given:
      known[given.frames(frames, sample_frames)] = True
    return known

  def known(self, frames: int, sample_frames: int | None = None,
            mouth: np.ndarray | None = None) -> np.ndarray:
    """bool [F], known frames, or [F, H, W], known pixels, of a task that redraws the mouth.

    Args:
      frames, sample_frames: as in `known_frames`.
      mouth: bool [H, W] or [F, H, W], the region that is drawn anew.

    Raises:
      ValueError: no region, for a task that redraws the mouth.
    """
    known = self.known_frames(frames, sample_frames)
    if not self.redraws_mouth:
      return known
    if mouth is None:
      raise ValueError(f"Task {self.name} knows parts of frames; give the mouth region.")
    if known.all():
      return masks.known_pixels(mouth, len(known))
    return known[:, None, None] & masks.known_pixels(mouth, len(known))
