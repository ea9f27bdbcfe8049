"""The description of a task: which parts of the video a request gives, and what follows from that."""

from collections.abc import Callable
import dataclasses
import enum

import numpy as np

from emv3_jax.tasks import masks


class ReferenceImage(enum.IntEnum):
  """Image for the CLIP image encoder; the value is its index in the array `image` of a record."""

  FIRST = 0  # the first picture of the request
  FIRST_MASKED = 1  # the same picture with the mouth region of lip-sync in mid grey


@dataclasses.dataclass(frozen=True)
class ConditionInput:
  """A file of the request that gives some frames of the video.

  Attributes:
    request_field: field of the request that names the file: `image` or `last_image`, a picture that is
      repeated over its frames, or `video`, of which frame i is used at frame i.
    frames: (requested frames, sampled frames) -> the slice of the sampled frames that the file gives.
      The number of sampled frames is the next 4k + 1; in training both numbers are equal.
  """

  request_field: str
  frames: Callable[[int, int], slice]


@dataclasses.dataclass(frozen=True)
class TaskSpec:
  """A task.

  Attributes:
    name: the name in configs, command lines, records and reports.
    condition_inputs: files of the request that give frames of the video, in the order of the frames; the
      first file sets the size.
    reference_image: what the image encoder (CLIP) encodes; with None its states are zeros.
    uses_face: whether the face is located in the first picture, so that the audio acts on the face only;
      otherwise the audio acts on the whole picture. The same holds in training.
    inpaints_mouth: whether the mouth region is generated in every frame. The face must be found then.
    postprocess: (frames, source, mouth) -> frames, with the shapes of `pasting.paste`, for a task that
      inpaints the mouth. It is applied to the decoded clip unless the request turns it off.
    slot: index in the array `masked_latents` of records that serve all tasks. None means that records do
      not store the masked latents of this task. Such a task is trained on all records only if it has no
      condition inputs, otherwise only on records that name it as their task.

  Raises:
    ValueError: `postprocess` without a mouth region.
  """

  name: str
  condition_inputs: tuple[ConditionInput, ...] = ()
  reference_image: ReferenceImage | None = None
  uses_face: bool = False
  inpaints_mouth: bool = False
  postprocess: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
  slot: int | None = None

  def __post_init__(self):
    if self.postprocess is not None and not self.inpaints_mouth:
      raise ValueError(f"Task {self.name}: postprocess needs the region of a task that inpaints the mouth.")

  @property
  def inputs(self) -> tuple[str, ...]:
    """Fields of the request that have to name a file."""
    return tuple(item.request_field for item in self.condition_inputs)

  @property
  def is_trainable(self) -> bool:
    """Whether records that serve all tasks hold what this task needs."""
    return self.slot is not None or not self.condition_inputs

  def frame_mask(self, frames: int, sample_frames: int | None = None) -> np.ndarray:
    """Computes the condition mask by frame.

    Args:
      frames: number of requested frames.
      sample_frames: F, number of sampled frames; None stands for `frames`.

    Returns:
      bool [F], True for frames of which a file of the request gives all or a part.
    """
    sample_frames = frames if sample_frames is None else sample_frames
    mask = np.zeros(sample_frames, bool)
    for item in self.condition_inputs:
      mask[item.frames(frames, sample_frames)] = True
    return mask

  def condition_mask(self, frames: int, sample_frames: int | None = None,
                     mouth: np.ndarray | None = None) -> np.ndarray:
    """Computes the condition mask, True where the request gives the video.

    Args:
      frames, sample_frames: see `frame_mask`.
      mouth: bool [H, W] or [F, H, W], the region that is inpainted.

    Returns:
      bool [F], one value for each frame; for a task that inpaints the mouth bool [F, H, W], one value
      for each pixel.

    Raises:
      ValueError: a task that inpaints the mouth, without a region.
    """
    mask = self.frame_mask(frames, sample_frames)
    if not self.inpaints_mouth:
      return mask
    if mouth is None:
      raise ValueError(f"Task {self.name} inpaints the mouth; give the mouth region.")
    if mask.all():
      return masks.outside_mouth(mouth, len(mask))
    return mask[:, None, None] & masks.outside_mouth(mouth, len(mask))
