"""PNG measured on the small default: phases of negative prompts beside one negative prompt and none of its factors.

  python scripts/png_tiny.py --out=docs/evidence/png.json       # text scales 1.05, 2 and 4, all modes
  python scripts/png_tiny.py --text_scales=2 --png=phases --clips=2

Held-out puppets are made from their first frame, caption and sound. A line of JSON for each setting: the mouth's r,
gestures, and the flaws that the negative prompts name (fingers, jerks, colours that drift), of
`emv3_jax.puppets.judging.judge.figures`, with `noise`, the standard deviation of each over draws of the clips. The
phases are those of PNG with the flaws of the puppets' captions as prompts. At a text scale of 1.05 guidance by text is
next to nothing, and phases cannot act. Videos are kept in --kept: a run that was stopped goes on.
"""

import dataclasses
import json
import pathlib
import sys

from emv3_jax.diffusion.negative_phases import Phase
from emv3_jax.errors import InputError
from emv3_jax.io import atomic
from emv3_jax.puppets.judging import judge, samples
from emv3_jax.runtime import command_line, program_cache
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.model import load
from emv3_jax.sampling.settings import PNG_MODES, Config

SHOWN = ("r", "i2v/gesture", "wrong_fingers", "six_fingers", "jerk", "drift", "identity_ratio", "background_ratio")
PUPPETS = (Phase(until_step=3, weight=1.5, negative_prompt="jerky motion"),
           Phase(negative_prompt="six fingers, drifting colours"))


def measure(config: Config, checkpoint: str | None, text_scale: float, png: str, clips: list, flags) -> dict:
  """Returns the figures of one setting, rounded."""
  sampling = dataclasses.replace(
      config.sampling, text_scale=text_scale, png=png, png_phases=config.sampling.png_phases or PUPPETS,
      **({"neg_scale": 1.5, "neg_steps": 2} if png == "released" else {}))
  actor = samples.Actor(load(checkpoint or "", dataclasses.replace(config, sampling=sampling)), flags.kept)
  shown = samples.perform(actor, clips, seed=flags.seed, swaps=0, silences=0, text_only=0)
  rows = [judge.row(each) for each in shown]
  rounded = lambda values: {name: round(values[name], 4) for name in SHOWN}
  return {"text_scale": text_scale, "png": png, "clips": len(rows), **rounded(judge.figures(rows)),
          "noise": rounded(judge.noise(rows))}


def main(arguments) -> int:
  parser = command_line.Parser(description=__doc__)
  parser.add_argument("--config", default="configs/tiny.py")
  parser.add_argument("--checkpoint", help="model folder; default: the config's")
  parser.add_argument("--text_scales", default="1.05,2,4", help="by commas")
  parser.add_argument("--png", default="off,released,phases", help="modes, by commas")
  parser.add_argument("--clips", type=int, default=12)
  parser.add_argument("--world", type=int, default=1, help="seed of the puppets' world")
  parser.add_argument("--frames", type=int, default=samples.FRAMES, help="of a clip, 4k + 1")
  parser.add_argument("--seed", type=int, default=0, help="of the first clip's noise")
  parser.add_argument("--kept", type=pathlib.Path, default="outputs/judge", help="folder of videos")
  parser.add_argument("--out", type=pathlib.Path, help="JSON file of all settings, written after each")
  flags, overrides = parser.parse(arguments)
  modes = flags.png.split(",")
  try:
    scales = [float(text) for text in flags.text_scales.split(",")]
  except ValueError:
    raise InputError(f"--text_scales={flags.text_scales}; give numbers, as in --text_scales=1.05,2,4.") from None
  if not set(modes) <= set(PNG_MODES):
    raise InputError(f"--png={flags.png}; known modes: {', '.join(PNG_MODES)}.")
  if flags.clips < 1:
    raise InputError(f"--clips={flags.clips}; give at least one.")
  config = samples.sized(config_lib.build(Config, command_line.read_config(flags.config, overrides, Config)))
  program_cache.use(config.program_cache)
  clips, rows = samples.render(flags.clips, "held_out", flags.frames, flags.world), []
  for text_scale, png in ((scale, mode) for scale in scales for mode in modes):
    rows.append(measure(config, flags.checkpoint, text_scale, png, clips, flags))
    sys.stdout.write(json.dumps(rows[-1]) + "\n")
    sys.stdout.flush()
    if flags.out:
      atomic.write_json(flags.out, {"world": flags.world, "frames": flags.frames, "rows": rows})
  return 0


if __name__ == "__main__":
  command_line.run(main)
