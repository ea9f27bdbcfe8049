"""Whether a puppet keeps its hair to the end of a clip."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from emv3_jax.puppets.judging.samples import Performance
from emv3_jax.puppets.world import clips, read_hair, render
from emv3_jax.puppets.world.hair import STYLES
from emv3_jax.puppets.world.identities import BY_NAME
from emv3_jax.puppets.world.render import Truth


def style(video: np.ndarray, truth: Truth) -> str:
  """The way to wear one's hair that a clip [F, 64, 64, 3] comes nearest to at its end.

  Its hair is compared with that of the puppet of `truth` in every style, at rest.
  """
  identity = BY_NAME[truth.identity]
  cover = lambda frames: read_hair.cover(frames, identity.hair, truth.background, truth.pattern)
  seen, likeness = cover(video), {}
  for name in STYLES:
    still = render.render_clip(clips.ClipSpec(
        seed=0, identity=dataclasses.replace(identity, hair_style=name), clothes=truth.clothes,
        garment=truth.garment, background=truth.background, pattern=truth.pattern, fingers=1,
        hand_side=1, gesture="stays calm", frames=1))
    likeness[name] = read_hair.overlap(seen, cover(still.frames))
  return max(likeness, key=lambda name: likeness[name])


def row(shown: Performance) -> dict[str, float]:
  """What one clip shows; see `figures`."""
  truth = shown.clip.truth
  identity = BY_NAME[truth.identity]
  cover = lambda frames: read_hair.cover(frames, identity.hair, truth.background, truth.pattern)
  true, found = cover(shown.clip.frames), {}
  for of, video in (("", shown.spoken), ("/vae", shown.rebuilt)):
    found[f"hair_shape{of}"] = read_hair.overlap(cover(video), true)
    found[f"hair_style{of}"] = float(style(video, truth) == identity.hair_style)
  return found


def figures(rows: Sequence[dict[str, float]]) -> dict[str, float]:
  """Means over clips.

  Returns:
    hair_shape, hair_shape/vae: in the last quarter of a clip, intersection over union of the hair with that of the
      true clip, whose head may move otherwise; of samples and of the VAE's reconstructions;
    hair_style, hair_style/vae: share of clips that end with the style that they have to.
  """
  return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
