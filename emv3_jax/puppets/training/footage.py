"""Puppets as the VAE's training sees them: pixels in memory, windows drawn by (seed, step)."""

import dataclasses
import hashlib
import pathlib

from absl import logging
import numpy as np

from emv3_jax.io.atomic import atomic_file
from emv3_jax.puppets import world
from emv3_jax.puppets.training.settings import Phase, VAESettings

GREY = 128
# Where a puppet's hand may be, by its side: rows, columns.
HAND = {-1: (slice(34, 61), slice(0, 23)), 1: (slice(34, 61), slice(41, 64))}


@dataclasses.dataclass(frozen=True)
class Footage:
  """Clips of one length.

  Attributes:
    frames: [n, F, 64, 64, 3] uint8.
    mouth_box: [n, F, 4] int32, pixels y1, y2, x1, x2.
    hand_side: [n] int32, -1 left, 1 right.
    opening: [n, F] float32, of the mouth.
  """

  frames: np.ndarray
  mouth_box: np.ndarray
  hand_side: np.ndarray
  opening: np.ndarray

  def mouth(self, clip: int) -> np.ndarray:
    """Where the mouth may be: [F, 64, 64] bool."""
    y1, y2, x1, x2 = (edge[:, None, None] for edge in self.mouth_box[clip].T)
    y, x = np.mgrid[:self.frames.shape[2], :self.frames.shape[3]]
    return (y >= y1) & (y < y2) & (x >= x1) & (x < x2)

  def hand(self, clip: int) -> np.ndarray:
    """Where the hand may be: [64, 64] bool."""
    region = np.zeros(self.frames.shape[2:4], bool)
    region[HAND[int(self.hand_side[clip])]] = True
    return region


def render(seed: int, count: int, split: str, frames: int = 17) -> Footage:
  """The first `count` clips of the puppets' world `seed`."""
  specs = [world.clip_spec(seed, index, split, frames) for index in range(count)]
  clips = [world.render_clip(spec) for spec in specs]
  return Footage(np.stack([clip.frames for clip in clips]),
                 np.stack([clip.truth.mouth_box for clip in clips]),
                 np.array([spec.hand_side for spec in specs], np.int32),
                 np.stack([clip.truth.opening for clip in clips]))


def rendered(folder: pathlib.Path, seed: int, count: int, split: str, frames: int = 17) -> Footage:
  """`render`, kept in a file of `folder` so that a second start need not draw again.

  The file is named after what its first clip looks like: another renderer makes another file.
  """
  first = render(seed, 1, split, frames)
  look = hashlib.sha256(first.frames.tobytes() + first.opening.tobytes()).hexdigest()[:8]
  path = folder / f"puppets_{split}_{seed}_{count}x{frames}_{look}.npz"
  if not path.exists():
    logging.info("Drawing %d %s puppets.", count, split)
    drawn = render(seed, count, split, frames)
    with atomic_file(path) as temporary:
      np.savez(temporary, **dataclasses.asdict(drawn))
  with np.load(path) as held:
    return Footage(**held)


def batch(footage: Footage, settings: VAESettings, phase: Phase, step: int) -> dict:
  """What a step is trained on; depends on (settings.seed, step) alone.

  Returns:
    video [b, F, 64, 64, 3] uint8; weight [b, F, 64, 64] float32, of a pixel in the loss.
  """
  videos, weights = [], []
  for example in range(phase.batch):
    rng = np.random.default_rng((settings.seed, step, example))
    clip = int(rng.integers(len(footage.frames)))
    start = rng.integers(footage.frames.shape[1] - phase.frames + 1)
    window = slice(start, start + phase.frames)
    video = footage.frames[clip, window]
    weight = (1 + settings.mouth_weight * footage.mouth(clip)[window]
              + settings.hand_weight * footage.hand(clip)).astype(np.float32)
    flipped = rng.random() < 0.5
    if flipped:
      video, weight = video[:, :, ::-1], weight[:, :, ::-1]
    hidden = rng.random()
    if hidden < settings.grey_share and phase.frames > 1:
      video = video.copy()
      video[1:] = GREY
    elif hidden > 1 - settings.grey_mouth_share:
      mouth = footage.mouth(clip)[window]
      video = np.where((mouth[:, :, ::-1] if flipped else mouth)[..., None], np.uint8(GREY), video)
    videos.append(video)
    weights.append(weight)
  return {"video": np.stack(videos), "weight": np.stack(weights)}
