"""Measures how well the small default's puppets speak: held-out puppets, voices and sentences.

  python scripts/judge_tiny.py                              # the weights that ship, 20 clips
  python scripts/judge_tiny.py --checkpoint=DIR --clips=6 --config.sampling.audio_scale=3
  python scripts/judge_tiny.py --checkpoint=DIR --sweep=docs/images/tiny_guidance.png

Prints one line of JSON; see `emv3_jax.training.parts.lip_sync.figures` for what is in it. --sweep
goes through scales of guidance, prints a line for each and draws them (`pip install matplotlib`).
"""

import dataclasses
import itertools
import json
import pathlib
import sys

from emv3_jax import command_line, program_cache
from emv3_jax import config as config_lib
from emv3_jax.data import puppets
from emv3_jax.errors import InputError
from emv3_jax.sampling.model import load
from emv3_jax.sampling.settings import Config
from emv3_jax.training.parts import lip_sync

TEXT_SCALES, AUDIO_SCALES = (1.05, 2.0), (1.0, 1.3, 1.8, 2.9)
SEEDS = {"judge": 2, "sweep": 1}  # of the puppets' world: what is chosen is judged on others


def judge(config: Config, checkpoint: str | None, clips: list[puppets.Clip],
          **options) -> dict[str, float]:
  figures = lip_sync.figures(load(checkpoint, config), clips, **options)
  return {name: round(value, 4) for name, value in figures.items()}


def sweep(config: Config, checkpoint: str | None, clips: list[puppets.Clip],
          picture: pathlib.Path) -> None:
  rows = []
  for text, audio in itertools.product(TEXT_SCALES, AUDIO_SCALES):
    sampling = dataclasses.replace(config.sampling, text_scale=text, audio_scale=audio)
    figures = judge(dataclasses.replace(config, sampling=sampling), checkpoint, clips, swaps=0,
                    silences=1)
    rows.append({"text_scale": text, "audio_scale": audio, **figures})
    tell(rows[-1])
  draw(rows, picture)


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


def tell(figures: dict) -> None:
  sys.stdout.write(json.dumps(figures) + "\n")
  sys.stdout.flush()


def main(arguments) -> int:
  parser = command_line.Parser(description=__doc__)
  parser.add_argument("--config", default="configs/tiny.py")
  parser.add_argument("--checkpoint", help="model folder; default: the config's")
  parser.add_argument("--clips", type=int, default=20)
  parser.add_argument("--split", default="held_out", help="of the puppets' world, docs/puppets.md")
  parser.add_argument("--seed", type=int, help="of the puppets' world; default: 2, of a sweep 1")
  parser.add_argument("--frames", type=int, default=lip_sync.FRAMES, help="of a clip, 4k + 1")
  parser.add_argument("--sweep", metavar="PNG", type=pathlib.Path)
  flags, overrides = parser.parse(arguments)
  if flags.clips < 2:
    raise InputError(f"--clips={flags.clips}; at least 2 are needed, to swap their sounds.")
  config = config_lib.build(Config, command_line.read_config(flags.config, overrides, Config))
  program_cache.use(config.program_cache)
  seed = SEEDS["sweep" if flags.sweep else "judge"] if flags.seed is None else flags.seed
  clips = lip_sync.render(flags.clips, flags.split, flags.frames, seed)
  if flags.sweep:
    sweep(config, flags.checkpoint, clips, flags.sweep)
  else:
    tell(judge(config, flags.checkpoint, clips))
  return 0


if __name__ == "__main__":
  command_line.run(main)
