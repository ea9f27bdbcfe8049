"""The figures of the small default, how much they change by chance, and what was found before.

Chance is what another draw of clips and noise would give: `noise` draws the clips of a world again
and again, with replacement, and takes the standard deviation of each figure. A figure that is more
than ALLOWED of them off has changed. The mean over worlds is held to a bound that is narrower by
the root of their number.
"""

from collections.abc import Sequence
import math

import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.puppets.judging import captions, flaws, hair, lip_sync
from emv3_jax.puppets.judging.samples import Performance
from emv3_jax.puppets.world import readers

ALLOWED = 3.0  # standard deviations
DRAWS = 300
MEAN = "mean"  # of all worlds, beside them
# The least standard deviation, by the last part of a figure's name: few clips may agree by chance.
# A figure that is not named is a share of clips, of which one of n + 2 is the least.
LEAST = {"r": 0.005, "least_r": 0.02, "offset": 0.2, "silent_opening": 0.005, "swapped_r": 0.005,
         "swapped_excess": 0.01, "hair_shape": 0.01, "identity_ratio": 0.03, "background_ratio": 0.03,
         "wrong_fingers": 0.005, "six_fingers": 0.005, "jerk": 0.01, "drift": 0.5}
_CHANCE = "/chance"  # given beside a share, not judged


def row(shown: Performance) -> dict:
  """All that one clip shows; see `figures`."""
  truth = shown.clip.truth
  marks = {"": flaws.read(shown.spoken), "/vae": flaws.read(shown.rebuilt),
           "/true": flaws.read(shown.clip.frames)}
  text_only = shown.text_only
  return {"hair": hair.row(shown),
          "lips": lip_sync.row(shown),
          "flaws": {of: flaws.row(seen, truth.fingers) for of, seen in marks.items()},
          "deeds": {of: captions.deeds(seen, truth) for of, seen in marks.items()},
          **({} if text_only is None else {"t2v": _of_caption(text_only, shown)})}


def _of_caption(text_only: np.ndarray, shown: Performance) -> dict:
  late = lip_sync.lateness(readers.opening(text_only), shown.clip.truth.opening)
  return {"r": lip_sync.in_time(late),
          "told": {**captions.looks(text_only, shown.clip.truth),
                   **captions.deeds(flaws.read(text_only), shown.clip.truth)}}


def figures(rows: Sequence[dict]) -> dict[str, float]:
  """All figures of a world.

  Args:
    rows: of `row`, one a clip.

  Returns:
    NAME: of `lip_sync.figures`;
    NAME: of `hair.figures`;
    NAME, NAME/vae, NAME/true: of `flaws.figures`, in samples, in the VAE's reconstructions of the
      true clips and in the true clips;
    i2v/NAME: of `captions.figures`, of samples from first frame, caption and sound; of `gesture`
      also the share that its reader gets right, i2v/gesture/vae and i2v/gesture/true;
    t2v/NAME: likewise, of samples from caption and sound; t2v/r is the median of the mouths' r.
  """
  values = lip_sync.figures([row["lips"] for row in rows])
  values |= hair.figures([row["hair"] for row in rows])
  for of in rows[0]["flaws"]:
    seen = flaws.figures([row["flaws"][of] for row in rows])
    values |= {name + of: value for name, value in seen.items()}
    share = captions.figures([row["deeds"][of] for row in rows])
    values |= ({f"i2v/{name}": value for name, value in share.items()} if not of else
             {f"i2v/gesture{of}": share["gesture"]})
  if rows[0].get("t2v"):
    values["t2v/r"] = float(np.median([row["t2v"]["r"] for row in rows]))
    share = captions.figures([row["t2v"]["told"] for row in rows])
    values |= {f"t2v/{name}": value for name, value in share.items()}
  return values


def noise(rows: Sequence[dict], seed: int = 0) -> dict[str, float]:
  """Standard deviation of each figure over draws of the clips with replacement."""
  rng = np.random.default_rng(seed)
  drawn = [figures([rows[i] for i in rng.integers(len(rows), size=len(rows))])
           for _ in range(DRAWS)]
  return {name: max(float(np.std([values[name] for values in drawn])), _least(name, len(rows)))
          for name in drawn[0]}


def _least(name: str, clips: int) -> float:
  of = name.removesuffix("/vae").removesuffix("/true").rpartition("/")[2]
  return LEAST.get(of, 1 / (clips + 2))


def evidence(worlds: dict[str, Sequence[dict]], **about) -> dict:
  """What was found, to be kept as JSON.

  Args:
    worlds: rows by the seed of a world.
    **about: what else there is to say.
  """
  found = {world: figures(rows) for world, rows in worlds.items()}
  spread = [noise(rows) for rows in worlds.values()]
  return {**about, "clips": min(map(len, worlds.values())),
          "noise": _rounded({name: math.sqrt(np.mean([each[name] ** 2 for each in spread]))
                             for name in spread[0]}),
          "worlds": {world: _rounded(values) for world, values in found.items()},
          MEAN: _rounded(mean(found))}


def mean(found: dict[str, dict[str, float]]) -> dict[str, float]:
  """The mean over worlds."""
  names = next(iter(found.values()))
  return {name: float(np.mean([values[name] for values in found.values()])) for name in names}


def changes(found: dict[str, dict[str, float]], clips: int, known: dict) -> list[str]:
  """What has changed, a line each: found, expected, allowed. Figures that are new have not changed.

  Args:
    found: figures by world, of worlds that are known.
    clips: of each world; where they are fewer than were taken before, more is allowed.
    known: of `evidence`.

  Raises:
    InputError: a figure of `known` is missing.
  """
  widened = math.sqrt(max(1, known["clips"] / clips))
  expected = {world: known["worlds"][world] for world in found}
  compared = [(f"world {world}", values, expected[world], 1.0) for world, values in found.items()]
  if len(found) > 1:
    compared.append((f"mean of {len(found)} worlds", mean(found), mean(expected),
                     1 / math.sqrt(len(found))))
  lines = []
  for where, values, before, narrowed in compared:
    if not set(values) >= set(before):
      raise InputError(f"Figures are missing: {', '.join(sorted(set(before) - set(values)))}; "
                       "--write what is found.")
    for name in before:
      value = values[name]
      allowed = ALLOWED * known["noise"][name] * widened * narrowed
      # Both were rounded.
      if not name.endswith(_CHANCE) and abs(value - before[name]) > allowed + 1e-4:
        lines.append(f"{where}: {name} found {value:.3f}, expected {before[name]:.3f}, "
                     f"allowed {before[name] - allowed:.3f} to {before[name] + allowed:.3f}")
  return lines


def _rounded(values: dict[str, float]) -> dict[str, float]:
  return {name: round(value, 4) for name, value in values.items()}
