"""The windows of a long clip, and the frames that belong to each."""

from collections.abc import Iterator
import dataclasses

from absl import logging

from emv3_jax import geometry
from emv3_jax.diffusion import windows
from emv3_jax.diffusion.windows import Window
from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS, FRAMES
from emv3_jax.sampling.settings import Settings


@dataclasses.dataclass(frozen=True)
class LongPlan:
  """Windows of a clip.

  Attributes:
    mode: see `diffusion.windows`.
    windows: in order, in latent frames.
    overlap: N, the latent frames that neighbours share at least.
    batch: number of windows that are computed at a time.
  """

  mode: str
  windows: tuple[Window, ...]
  overlap: int
  batch: int

  @property
  def total(self) -> int:
    """Latent frames of the clip."""
    return self.windows[-1].stop

  def groups(self) -> Iterator[list[int]]:
    """Yields the indices of windows that are computed together: `batch` of one shape, the last one repeated."""
    alike = [list(range(len(self.windows)))]
    if self.mode == "released":  # its last window has another length, or other features of the voice
      alike = [alike[0][:-1], alike[0][-1:]]
    for numbers in alike:
      for start in range(0, len(numbers), self.batch):
        group = numbers[start:start + self.batch]
        yield group + group[-1:] * (self.batch - len(group))

  def described(self) -> dict:
    """Returns the mode and the windows as [first video frame, number of frames], for a report."""
    return {"mode": self.mode, "windows": [[first_frame(window), num_frames(window)] for window in self.windows]}

  def __str__(self) -> str:
    length = geometry.frames_of(self.windows[0].length)
    shared = geometry.frames_of(self.overlap)
    return (f"{geometry.frames_of(self.total)} frames ({geometry.frames_of(self.total) / FPS:.2f} s) in "
            f"{len(self.windows)} windows of {length} that share {shared} or more, mode {self.mode}")


def first_frame(window: Window) -> int:
  """Returns the video frame of a window's first latent frame, of which the window has one frame as any clip has."""
  return FRAMES * window.start


def num_frames(window: Window) -> int:
  """Returns the video frames of a window."""
  return geometry.frames_of(window.length)


def is_long(settings: Settings, sample_frames: int) -> bool:
  """Returns whether a clip of `sample_frames` (4k+1) is longer than a window.

  Raises:
    InputError: window and overlap do not fit each other.
  """
  return sample_frames > settings.long.window_frames(settings.max_frames)


def plan(settings: Settings, sample_frames: int, parts: int) -> LongPlan | None:
  """Places the windows of a clip; None if it fits into one.

  Args:
    settings: of the sampling.
    sample_frames: 4k+1.
    parts: data x fsdp of the mesh.

  Raises:
    InputError: window, overlap or batch do not fit each other or the mesh.
  """
  if not is_long(settings, sample_frames):
    return None
  long = settings.long
  length = geometry.latent_frames(long.window_frames(settings.max_frames))
  overlap = long.overlap_latents(length)
  if length < 2 or overlap >= length:
    raise InputError(f"A window of {geometry.frames_of(length)} frames is too short for clips that are longer; raise "
                     "--config.sampling.long.window or --config.sampling.max_frames.")
  placed = windows.place(geometry.latent_frames(sample_frames), length, overlap, long.mode)
  found = LongPlan(long.mode, placed, overlap, 1 if long.mode == "chunked" else long.batch(parts))
  logging.info("A long clip: %s.", found)
  return found
