"""The fixed sizes of the released networks, and what follows from them for a clip.

The VAE makes one latent cell of 8 x 8 pixels and four frames (the first frame has latents of its own),
the transformer one token of 2 x 2 cells. So a clip has 4k + 1 frames and sides that are multiples of 16.
"""

from collections.abc import Sequence

PIXELS = 8  # pixels along a side of a latent cell
FRAMES = 4  # video frames of a latent frame, but for the first latent frame, which has one
CELLS = 2  # latent cells along a side of a token
TOKEN = PIXELS * CELLS  # pixels along a side of a token
CHANNELS = 16  # of latents
FPS = 25  # video frames a second, the rate that the released weights were trained at
RATE = 16_000  # Hz, of the sound that the audio encoders read
TAU_MAX = 1000.0  # timestep of pure noise

Size = tuple[int, int]  # (height, width)


def latent_frames(frames: int) -> int:
  """f: latent frames of `frames` = 4k + 1 video frames; of other numbers those that they fill."""
  return (frames - 1) // FRAMES + 1


def frames_of(latents: int) -> int:
  """F: video frames that `latents` latent frames are decoded to."""
  return FRAMES * (latents - 1) + 1


def sample_frames(frames: int) -> int:
  """The next 4k + 1 at or above `frames`: what is sampled; the surplus is dropped."""
  return frames + (1 - frames) % FRAMES


def whole_frames(frames: int) -> int:
  """The next 4k + 1 at or below `frames`: what a window of so many frames can hold."""
  return frames_of(latent_frames(frames))


def is_clip_length(frames: int) -> bool:
  """Whether a clip can have so many frames: 4k + 1."""
  return frames % FRAMES == 1


def latent_size(size: Sequence[int]) -> Size:
  """(H8, W8): rows and columns of latents of pictures of `size` (H, W) in pixels."""
  return size[0] // PIXELS, size[1] // PIXELS


def pixel_size(size8: Sequence[int]) -> Size:
  """(H, W): rows and columns of pixels of latents of `size8` (H8, W8)."""
  return PIXELS * size8[0], PIXELS * size8[1]


def token_grid(size: Sequence[int]) -> Size:
  """(h, w): rows and columns of tokens of pictures of `size` (H, W) in pixels."""
  return size[0] // TOKEN, size[1] // TOKEN


def grid_of_latents(size8: Sequence[int]) -> Size:
  """(h, w): rows and columns of tokens of latents of `size8` (H8, W8)."""
  return size8[0] // CELLS, size8[1] // CELLS
