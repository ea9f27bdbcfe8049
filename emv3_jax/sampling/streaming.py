"""A clip that comes group by group of frames, in memory that does not grow with its pictures."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
import dataclasses
import time

from jaxtyping import Float32, UInt8
import numpy as np

from emv3_jax.sampling.model import Model
from emv3_jax.sampling.profile import Profile

Finish = Callable[[np.ndarray, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Group:
  """Frames that no later step of sampling changes.

  Attributes:
    frames: uint8 [n, H, W, 3], which follow those of the group before.
    latents: float32 [m, H/8, W/8, 16], final latents that no earlier group had; m may be 0.
  """

  frames: np.ndarray
  latents: np.ndarray


class Stream:
  """Iterator over the frames of a clip, uint8 [n, H, W, 3] at a time; n differs between groups.

  The clip is sampled while it is iterated over, once. What is not needed any more is freed when the
  iteration ends, is closed, or fails.

  Args:
    groups: all frames in order.
    fps: frames a second.
    num_frames: number of frames of the whole clip.
    size: (H, W) of a frame.
    sound: (samples float32 [n, channels], rate) of the whole clip.
    describe: makes the report.
    began: `time.monotonic()` of the call that asked for the clip.
    overlaps: (first frame, first frame after) of what two windows of the clip share, in order.

  Attributes:
    fps, num_frames, size, sound, overlaps: the arguments.
    first_frame_seconds: from the call to the first group; None before it.
  """

  def __init__(self, groups: Iterable[Group], *, fps: int, num_frames: int, size: tuple[int, int],
               sound: tuple[np.ndarray, int], describe: Callable[[], dict], began: float,
               overlaps: Sequence[tuple[int, int]] = ()):
    self.fps, self.num_frames, self.size, self.sound = fps, num_frames, size, sound
    self.overlaps = tuple(overlaps)
    self.first_frame_seconds: float | None = None
    self._describe, self._began = describe, began
    self._latents: list[np.ndarray] = []
    self._frames = self._run(groups)

  def _run(self, groups: Iterable[Group]) -> Generator[np.ndarray]:
    for group in groups:
      if self.first_frame_seconds is None:
        self.first_frame_seconds = time.monotonic() - self._began
      self._latents.append(group.latents)
      if len(group.frames):
        yield group.frames

  def __iter__(self) -> Iterator[UInt8[np.ndarray, "n H W 3"]]:
    return self._frames

  def __next__(self) -> UInt8[np.ndarray, "n H W 3"]:
    return next(self._frames)

  def close(self) -> None:
    """Ends the iteration before its end."""
    self._frames.close()

  @property
  def latents(self) -> Float32[np.ndarray, "f H8 W8 c"]:
    """Latents so far; those of the clip, surplus frames included, after the last group."""
    return np.concatenate(self._latents)

  @property
  def report(self) -> dict:
    """What `Clip.report` has; seconds and memory are those of the work so far."""
    first = self.first_frame_seconds
    return self._describe() | ({} if first is None else {"first_frame_seconds": round(first, 2)})


def finished(groups: Iterable[Group], frames: int, finish: Finish | None = None) -> Iterator[Group]:
  """Drops the surplus frames of decoded groups, and post-processes the others.

  Args:
    groups: as decoded.
    frames: number of frames of the clip.
    finish: (frames [n, H, W, 3], number of the first of them) -> the same after post-processing.
  """
  begin = 0
  for group in groups:
    shown = group.frames[:max(0, frames - begin)]
    if finish is not None and len(shown):
      shown = finish(shown, begin)
    begin += len(group.frames)
    yield dataclasses.replace(group, frames=shown)


def decode_groups(model: Model, latents: Float32[np.ndarray, "f H8 W8 c"], profile: Profile
                  ) -> Iterator[Group]:
  """Decodes latents, one at a time: one frame of the first, four of each later one."""
  with model.parameters("vae") as params:
    decoded = model.vae_decode_groups(params, (latent[None, None] for latent in latents))
    for latent in latents:
      with profile.measure("vae_decode"):
        frames = next(decoded)[0]
      yield Group(frames, latent[None])
