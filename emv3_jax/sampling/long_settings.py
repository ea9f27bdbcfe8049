"""Settings of clips that are longer than a window."""

import dataclasses
import difflib

from emv3_jax import geometry
from emv3_jax.diffusion import windows
from emv3_jax.errors import InputError
from emv3_jax.limits import AMOUNT, check_ranges

CHUNK_OVERLAP = 9  # frames; the released 8, rounded up to whole latents


@dataclasses.dataclass(frozen=True)
class LongConfig:
  """Settings of a clip that is longer than a window. Shorter clips do not depend on them.

  Attributes:
    mode: how windows are combined, see `diffusion.windows`: `blended`, `paper`, `paper_literal`, `released` or
      `chunked`.
    window: frames of a window, 4k+1, of which the network makes k+1 latent frames; 0 takes `max_frames`.
    overlap: frames that neighbours share at least, 4k+1 for k+1 latent frames; 0 takes a quarter of the
      window's latent frames, with `chunked` at most 9 frames.
    window_batch: windows that are computed at a time; a multiple of the mesh's data x fsdp, and 0 takes this
      number. More need more memory on the device, and change nothing but rounding. `chunked` has one.
    anchor: whether every window takes the picture of the request for its first frame, as released. Without,
      only the first window does. Only for tasks whose first frame is a picture, and not with `chunked`, whose
      chunks begin with the end of the chunk before.
    keep_picture: whether the image encoder (CLIP) reads the picture of the request for every window, as
      released. Without, only for the first window: later ones have no picture, with `chunked` their first frame.
    match_colour: whether mean and spread of the colours of every frame are made those of the first frame, as the
      released scripts do when they write any video.
  """

  mode: str = "blended"
  window: int = 0
  overlap: int = 0
  window_batch: int = 0
  anchor: bool = True
  keep_picture: bool = True
  match_colour: bool = False

  def __post_init__(self):
    if self.mode not in windows.MODES:
      near = difflib.get_close_matches(self.mode, windows.MODES, n=1, cutoff=0)[0]
      raise InputError(f"sampling.long.mode is {self.mode!r}; did you mean {near!r}? Known: {', '.join(windows.MODES)}.")
    check_ranges("sampling.long", self, {name: AMOUNT for name in ("window", "overlap", "window_batch")})
    for name in ("window", "overlap"):
      frames = getattr(self, name)
      if frames and not geometry.is_clip_length(frames):
        raise InputError(f"sampling.long.{name} is {frames} frames, which is no number of latent frames; it must be "
                         f"4k+1, e.g. {geometry.whole_frames(frames)} or {geometry.sample_frames(frames)}.")

  def window_frames(self, max_frames: int) -> int:
    """Returns the frames of a window.

    Args:
      max_frames: of the sampling settings.

    Raises:
      InputError: the window is longer than `max_frames`, or no longer than the overlap.
    """
    frames = self.window or max_frames
    if frames > max_frames:
      raise InputError(f"sampling.long.window is {frames} frames, sampling.max_frames is {max_frames}, the longest "
                       "window; leave it out, or raise --config.sampling.max_frames.")
    if self.overlap >= frames:
      raise InputError(f"sampling.long.overlap is {self.overlap} frames, a window has {frames}; windows must be longer "
                       "than what they share. Give a smaller --config.sampling.long.overlap.")
    return frames

  def overlap_latents(self, length: int) -> int:
    """Returns N, the latent frames that neighbours share at least, for windows of `length` latent frames."""
    if self.overlap:
      return geometry.latent_frames(self.overlap)
    quarter = max(length // 4, 1)
    return min(quarter, geometry.latent_frames(CHUNK_OVERLAP)) if self.mode == "chunked" else quarter

  def batch(self, parts: int) -> int:
    """Returns the number of windows that are computed at a time.

    Args:
      parts: data x fsdp of the mesh.

    Raises:
      InputError: `window_batch` does not divide over them.
    """
    number = self.window_batch or parts
    if number % parts:
      fitting = sorted({max(number // parts, 1) * parts, -(-number // parts) * parts})
      raise InputError(f"sampling.long.window_batch is {number}; it must divide over data x fsdp = {parts} of the mesh, "
                       f"e.g. {' or '.join(map(str, fitting))}.")
    return number
