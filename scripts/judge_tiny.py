"""Watches the small default: held-out puppets, voices and sentences, held to what was found before.

  python scripts/judge_tiny.py                              # the weights that ship; three worlds
  python scripts/judge_tiny.py --worlds=2 --clips=6         # less, in a tenth of the time
  python scripts/judge_tiny.py --write                      # docs/evidence/default.json anew
  python scripts/judge_tiny.py --checkpoint=DIR --worlds=0 --clips=6 --config.sampling.audio_scale=3
  python scripts/judge_tiny.py --checkpoint=DIR --sweep=outputs/guidance.png

Prints a line of JSON for each world; `emv3_jax.puppets.judging.judge.figures` tells what is in it.
Exits with 1 where a figure is further from the evidence than chance makes it, and names it; other
weights (--checkpoint) are measured only. Videos are kept in --kept by all that decides their pixels,
the code of sampling included: a run that was stopped goes on. --sweep goes through scales of
guidance, prints a line for each and draws them (`pip install matplotlib`).
"""

import dataclasses
import datetime
import itertools
import json
import pathlib
import sys

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.io import atomic
from emv3_jax.puppets.judging import judge, lip_sync, samples
from emv3_jax.runtime import command_line, program_cache
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.model import Model, load
from emv3_jax.sampling.settings import Config

EVIDENCE = pathlib.Path(__file__).parents[1] / "docs/evidence/default.json"
CHANGED = 1  # exit code where figures have changed
TEXT_SCALES, AUDIO_SCALES = (1.05, 2.0, 3.0), (1.3, 1.8, 2.9)
WORLDS = "2,3,4"  # seeds of the puppets' worlds
SWEPT = "1"  # what is chosen is judged on others


def rows_of(actor: samples.Actor, world: str, flags) -> list[dict]:
  clips, rows = samples.render(flags.clips, flags.split, flags.frames, int(world)), []
  for shown in samples.perform(actor, clips, seed=flags.seed):
    rows.append(judge.row(shown))
    logging.info("World %s: %d of %d clips.", world, len(rows), len(clips))
  return rows


def watch(model: Model, flags) -> int:
  """Measures, and holds what was found to the evidence or writes it anew."""
  known = None if flags.write or flags.checkpoint else known_figures(flags)
  actor, rows, found = samples.Actor(model, flags.kept), {}, {}
  for world in flags.worlds.split(","):
    rows[world] = rows_of(actor, world, flags)
    found[world] = judge.figures(rows[world])
    tell({"world": world, **found[world]})
  weights = samples.weights_digest(model)
  if flags.write:
    atomic.write_json(EVIDENCE, judge.evidence(
        rows, date=datetime.date.today().isoformat(), command=" ".join(["python", *sys.argv]),
        split=flags.split, frames=flags.frames, seed=flags.seed, weights=weights,
        sampling=dataclasses.asdict(model.config.sampling)))
  if known is None:
    return 0
  if weights != known["weights"]:
    logging.info("The weights are others than those of %s.", EVIDENCE)
  return report(judge.changes(found, flags.clips, known))


def known_figures(flags) -> dict:
  """The evidence.

  Raises:
    InputError: it is not there, or is of other clips.
  """
  try:
    known = json.loads(EVIDENCE.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise InputError(f"There is no {EVIDENCE} to compare with; --write it.") from None
  for name in ("split", "frames"):
    if getattr(flags, name) != known[name]:
      raise InputError(f"{EVIDENCE} is of {name} {known[name]}, not {getattr(flags, name)}; leave "
                       f"--{name} out.")
  strange = set(flags.worlds.split(",")) - set(known["worlds"])
  if strange:
    raise InputError(f"{EVIDENCE} does not know the worlds {', '.join(sorted(strange))}; there are "
                     f"{', '.join(known['worlds'])}.")
  return known


def report(lines: list[str]) -> int:
  for line in lines:
    sys.stderr.write(f"{line}\n")
  if lines:
    sys.stderr.write(f"{len(lines)} figures have changed by more than chance since {EVIDENCE} was "
                     "written; if that is wanted, write it anew: --write.\n")
  return CHANGED if lines else 0


def sweep(config: Config, flags) -> None:
  clips, rows = samples.render(flags.clips, flags.split, flags.frames, int(flags.worlds)), []
  for text, audio in itertools.product(TEXT_SCALES, AUDIO_SCALES):
    sampling = dataclasses.replace(config.sampling, text_scale=text, audio_scale=audio)
    actor = samples.Actor(load(flags.checkpoint, dataclasses.replace(config, sampling=sampling)),
                          flags.kept)
    shown = samples.perform(actor, clips, seed=flags.seed, swaps=0, silences=1, text_only=0)
    rows.append({"text_scale": text, "audio_scale": audio,
                 **lip_sync.figures([lip_sync.row(each) for each in shown])})
    tell(rows[-1])
  draw(rows, flags.sweep)


def draw(rows: list[dict], picture: pathlib.Path) -> None:
  try:
    from matplotlib import pyplot
  except ImportError:
    raise InputError("--sweep draws with matplotlib; install it: pip install matplotlib") from None
  shown = {"r": "r of the mouth's opening", "silent_opening": "opening in silence",
           "identity_ratio": "error of skin and hair / VAE's",
           "background_ratio": "error of the wall / VAE's"}
  figure, axes = pyplot.subplots(1, len(shown), figsize=(4 * len(shown), 3.4),
                                 layout="constrained")
  for axis, (name, title) in zip(axes, shown.items(), strict=True):
    for text in TEXT_SCALES:
      line = [row for row in rows if row["text_scale"] == text]
      axis.plot([row["audio_scale"] for row in line], [row[name] for row in line], marker="o",
                label=f"text_scale {text:g}")
    axis.set(title=title, xlabel="audio_scale")
    axis.grid(alpha=0.3)
  axes[0].legend()
  figure.savefig(picture, dpi=100)


def tell(values: dict) -> None:
  plain = {name: round(value, 4) if isinstance(value, float) else value
           for name, value in values.items()}
  sys.stdout.write(json.dumps(plain) + "\n")
  sys.stdout.flush()


def main(arguments) -> int:
  parser = command_line.Parser(description=__doc__)
  parser.add_argument("--config", default="configs/tiny.py")
  parser.add_argument("--checkpoint", help="model folder; default: the config's")
  parser.add_argument("--clips", type=int, default=20, help="of each world")
  parser.add_argument("--worlds", help=f"seeds, by commas; default: {WORLDS}, of a sweep {SWEPT}")
  parser.add_argument("--split", default="held_out", help="of the puppets' world, docs/puppets.md")
  parser.add_argument("--seed", type=int, default=0, help="of the first clip's noise")
  parser.add_argument("--frames", type=int, default=samples.FRAMES, help="of a clip, 4k + 1")
  parser.add_argument("--kept", type=pathlib.Path, default="outputs/judge", help="folder of videos")
  parser.add_argument("--write", action="store_true", help=f"write {EVIDENCE}")
  parser.add_argument("--sweep", metavar="PNG", type=pathlib.Path)
  flags, overrides = parser.parse(arguments)
  if flags.clips < 2:
    raise InputError(f"--clips={flags.clips}; at least 2 are needed, to swap their sounds.")
  flags.worlds = flags.worlds or (SWEPT if flags.sweep else WORLDS)
  wanted = flags.worlds.split(",")
  if not all(world.isdecimal() for world in wanted) or (flags.sweep and len(wanted) > 1):
    raise InputError(f"--worlds={flags.worlds}; give numbers, as in --worlds={WORLDS}, and one for "
                     "a sweep.")
  config = samples.sized(config_lib.build(
      Config, command_line.read_config(flags.config, overrides, Config)))
  program_cache.use(config.program_cache)
  if flags.sweep:
    sweep(config, flags)
    return 0
  return watch(load(flags.checkpoint, config), flags)


if __name__ == "__main__":
  command_line.run(main)
