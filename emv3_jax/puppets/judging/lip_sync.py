"""How well puppets speak: openings of the mouth and colours, read back and held to the truth."""

from collections.abc import Sequence

import numpy as np

from emv3_jax.metrics.lip_sync import FAR, correlation, in_time, lateness
from emv3_jax.puppets import world
from emv3_jax.puppets.judging.samples import Performance
from emv3_jax.puppets.world import readers

SETTLED = 4  # frames after which a mouth that was open in the portrait has to be shut


def row(shown: Performance) -> dict:
  """What one clip shows, as JSON has it; see `figures`."""
  clip, truth = shown.clip, shown.clip.truth
  found = {"late": lateness(readers.opening(shown.spoken), truth.opening),
           "errors": _errors(shown.spoken, clip), "vae_errors": _errors(shown.rebuilt, clip),
           "identity": readers.identity(shown.spoken) == truth.identity,
           "vae_identity": readers.identity(shown.rebuilt) == truth.identity}
  if shown.silent is not None:
    found["silent_opening"] = float(readers.opening(shown.silent)[SETTLED:].mean())
  if shown.swapped is not None:
    assert shown.other is not None  # whose sound it has
    seen, heard = readers.opening(shown.swapped), shown.other.truth.opening
    found["swapped_r"] = in_time(lateness(seen, heard))
    found["swapped_excess"] = correlation(seen, truth.opening) - correlation(heard, truth.opening)
  return found


def figures(rows: Sequence[dict]) -> dict[str, float]:
  """How well puppets speak.

  Args:
    rows: of `row`; what was left out of all of them is left out here.

  Returns:
    r: of the opening seen and the true one, the best within NEAR frames; the median of the clips;
    least_r: the least of them;
    offset: frames by which the mouth is late where the clips' median r is greatest, within FAR;
    silent_opening: greatest mean opening of a puppet that hears silence, from frame SETTLED on;
    swapped_r: median r with the sound that is heard, of puppets that hear another clip's;
    swapped_excess: median of their r with the sound of their own clip less what the two true
      curves have in common;
    identity_ratio, background_ratio: colours of skin and hair, pixels of the wall: mean error over
      that of the VAE's reconstructions of the true clips;
    identities, vae_identities: share of clips in which the puppet is recognised.
  """
  column = lambda name: np.array([row[name] for row in rows if name in row], float)
  late = column("late")
  near = np.array([in_time(curve) for curve in late])
  identity, background = column("errors").mean(0) / column("vae_errors").mean(0)
  figures = {"r": np.median(near), "least_r": near.min(),
          "offset": np.median(late, axis=0).argmax() - FAR,
          "identity_ratio": identity, "background_ratio": background,
          "identities": column("identity").mean(), "vae_identities": column("vae_identity").mean()}
  for name, summary in (("silent_opening", np.max), ("swapped_r", np.median),
                        ("swapped_excess", np.median)):
    if len(column(name)):
      figures[name] = summary(column(name))
  return {name: float(value) for name, value in figures.items()}


def _errors(video: np.ndarray, clip: world.Clip) -> list[float]:
  """Mean absolute errors of a puppet's colours and of its wall, 0..255."""
  seen, true = readers.colours(video), readers.colours(clip.frames)
  puppet = np.mean([np.abs(getattr(seen, part) - np.median(getattr(true, part), axis=0))
                    for part in ("skin", "hair")])
  return [float(puppet), readers.wall_error(video, clip.truth.background, clip.truth.pattern)]
