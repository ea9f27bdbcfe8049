"""Long clips of held-out puppets: what they say, and what their files show."""

from collections.abc import Sequence
import dataclasses
import itertools
import os

import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS
from emv3_jax.io import video_files
from emv3_jax.metrics import clip_metrics
from emv3_jax.metrics.clip_metrics import Truth
from emv3_jax.metrics.frame_curves import FrameCurves
from emv3_jax.puppets import world
from emv3_jax.puppets.world import readers
from emv3_jax.puppets.world.canvas import SIZE
from emv3_jax.puppets.world.sentences import SAMPLES_PER_FRAME, sentences, speech
from emv3_jax.puppets.world.voice import band_levels

BOXED = 65  # frames of a puppet whose faces its face box surrounds, as in training
_HEARD = 0.015  # level below which a mouth is shut, see `world.mouth_curve`
_MARGIN = 4  # hundredths of a second that stay of the silence around a sentence


def puppets(count: int, seed: int) -> list[world.Clip]:
  """Renders the first BOXED frames of `count` held-out puppets that make a gesture, of the world `seed`."""
  specs = (world.clip_spec(seed, index, "held_out", BOXED) for index in itertools.count())
  moving = (spec for spec in specs if spec.gesture != "stays calm")
  return [world.render_clip(spec) for spec in itertools.islice(moving, count)]


def voice(frames: int, seed: int) -> tuple[np.ndarray, list[str]]:
  """Puts the sentences together that a puppet says: no pause between them, none of them twice.

  All held-out sentences come first, in an order by lot; training sentences follow where they do not suffice.

  Returns:
    Samples, float32 [frames * 640] at 16 kHz, and the names of the sentences.

  Raises:
    InputError: all sentences together are shorter.
  """
  rng, wanted = np.random.default_rng((seed, 11)), frames * SAMPLES_PER_FRAME
  pieces, names, length = [], [], 0
  for split in ("held_out", "train"):
    for index in rng.permutation(len(sentences(split))):
      if length < wanted:
        names.append(sentences(split)[index].name)
        pieces.append(without_pauses(speech(names[-1])))
        length += len(pieces[-1])
  if length < wanted:
    raise InputError(f"All sentences without pauses are {length / SAMPLES_PER_FRAME / FPS:.0f} s; a clip of "
                     f"{frames / FPS:.0f} s without repeated sound cannot be made. Make it shorter.")
  return np.concatenate(pieces)[:wanted], names


def without_pauses(samples: np.ndarray) -> np.ndarray:
  """Cuts the silence before and after a sentence, [n] at 16 kHz."""
  hop = SAMPLES_PER_FRAME // 4
  levels = band_levels(samples, hop * 100, (np.arange(len(samples) // hop) + 0.5) / 100)
  heard = np.flatnonzero(levels > _HEARD)
  return samples[max(0, heard[0] - _MARGIN) * hop:(heard[-1] + 1 + _MARGIN) * hop]


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
  """What the file of a clip shows.

  Attributes:
    figures: of `clip_metrics.measure`.
    truth: openings of the mouth.
  """

  figures: dict
  truth: Truth


def judge(path: str | os.PathLike, opening: np.ndarray, overlaps: Sequence[tuple[int, int]] = ()) -> Shown:
  """Measures a video file of a puppet, whose pictures are SIZE pixels wide and high or a multiple of it.

  Args:
    path: of the file.
    opening: of the mouth as it should be, [F].
    overlaps: see `clip_metrics.measure`.

  Raises:
    InputError: the file is no such video.
  """
  curves, frames = FrameCurves(), []
  for frame in video_files.stream_video(path):
    factor = frame.shape[0] // SIZE
    if factor < 1 or frame.shape[:2] != (factor * SIZE, factor * SIZE):
      raise InputError(f"{path} has pictures of {frame.shape[1]}x{frame.shape[0]}; a puppet's are a multiple of "
                       f"{SIZE}x{SIZE}.")
    frames.append(np.rint(frame.reshape(SIZE, factor, SIZE, factor, 3).mean((1, 3), np.float32)).astype(np.uint8))
    curves.observe(frames[-1][None])
  video = np.stack(frames)
  if len(video) != len(opening):
    raise InputError(f"{path} has {len(video)} frames; {len(opening)} were to be made.")
  truth = Truth(readers.opening(video), opening)
  return Shown(clip_metrics.measure(curves.curves(), overlaps, FPS, truth), truth)


def seam_by_chance(figures: dict, seed: int = 0, draws: int = 100) -> float | None:
  """Returns the mean of the largest change over the median, of as many frames as there are borders, drawn elsewhere.

  What a mouth, a hand or a blink changes from frame to frame is as large; None without borders.
  """
  borders = [seam["frame"] for seam in figures["seams"]]
  if not borders:
    return None
  change = np.array(figures["curves"]["change"])
  elsewhere = np.setdiff1d(np.arange(1, len(change)), np.add.outer(borders, (-1, 0, 1)))
  drawn = np.random.default_rng(seed).choice(change[elsewhere], (draws, len(borders)))
  return float(drawn.max(1).mean() / max(figures["median_change"], clip_metrics.LEAST_CHANGE))
