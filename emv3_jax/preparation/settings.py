"""Settings of the preparation."""

import dataclasses

from emv3_jax import geometry
from emv3_jax.data.index import Bucket
from emv3_jax.data.records import DTYPES
from emv3_jax.errors import InputError
from emv3_jax.geometry import TOKEN
from emv3_jax.limits import ABOVE_0, AMOUNT, COUNT, check_ranges
from emv3_jax.tasks import face_masks


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
  """The group `prepare` of a config.

  Attributes:
    frames: of a window, 4k + 1, at 25 a second.
    stride: frames from one window of a clip to the next; 0 stands for `frames`.
    sizes: (height, width) of windows, multiples of 16; a clip takes the one whose aspect ratio is
      nearest to its own, of equal ones the largest that does not enlarge it.
    dtype: of floating arrays on disk: float16, bfloat16 or float32.
    face_mask: `moving`: face mask and region of lip-sync follow the face through each window; `released`: one
      box around the faces of nine of its frames. See `tasks.face_masks`.
    mouth_fraction: lower part of the face box that lip-sync draws anew, as in sampling.
    sound_frames: sound of clips up to so long, 4k + 1, is encoded whole; of longer ones so many
      frames round each window.
    shard_clips: lines of the manifest that make a shard.
    text_batch, image_batch, video_batch: captions, pictures and videos encoded at once.
  """

  frames: int = 113
  stride: int = 0
  sizes: tuple[tuple[int, int], ...] = (
      (480, 832), (576, 704), (640, 640), (704, 576), (832, 480))
  dtype: str = "float16"
  face_mask: str = face_masks.MOVING
  mouth_fraction: float = 0.5
  sound_frames: int = 1501
  shard_clips: int = 64
  text_batch: int = 16
  image_batch: int = 16
  video_batch: int = 1

  def __post_init__(self):
    check_ranges("prepare", self, {
        "frames": (5, 10 ** 6), "stride": AMOUNT, "sizes": (TOKEN, 2 ** 16), "sound_frames": (5, 10 ** 6),
        "mouth_fraction": (ABOVE_0, 1), "shard_clips": COUNT, "text_batch": COUNT,
        "image_batch": COUNT, "video_batch": COUNT})
    face_masks.check_name("prepare.face_mask", self.face_mask)
    for name in ("frames", "sound_frames"):
      if not geometry.is_clip_length(getattr(self, name)):
        raise InputError(f"prepare.{name} is {getattr(self, name)}; it must be 4k+1, 5 or more.")
    if self.sound_frames < self.frames:
      raise InputError(f"prepare.sound_frames is {self.sound_frames}, less than a window of "
                       f"{self.frames} frames.")
    if not self.sizes or any(side % TOKEN for size in self.sizes for side in size):
      raise InputError(f"prepare.sizes is {self.sizes}; wanted (height, width) in multiples of "
                       f"{TOKEN}.")
    if self.dtype not in DTYPES:
      raise InputError(f"prepare.dtype is {self.dtype!r}; known: {', '.join(DTYPES)}.")

  @property
  def step(self) -> int:
    """Frames from the start of a window to the start of the next one."""
    return self.stride or self.frames

  @property
  def buckets(self) -> tuple[Bucket, ...]:
    return tuple(Bucket(self.frames, height, width) for height, width in self.sizes)
