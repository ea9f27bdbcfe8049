"""Measures what fewer and cheaper steps cost and give, each switch alone and together, on the small default.

  python scripts/switches_tiny.py                                        # ten clips of 25 steps a switch
  python scripts/switches_tiny.py --clips=1 --steps=4 --frames=9 --switches=none,magcache
  python scripts/switches_tiny.py --model=DIR --json=docs/evidence/switches.json

Prints a line of a table for each switch: how often the network's blocks ran for a clip, seconds of the steps of a
clip (the median; what is compiled is not in it), PSNR and SSIM to the clips without any switch, and r of the mouth's
opening with the truth (the median). Step caches are calibrated on a clip of another world, with the switch's guidance.
"""

from collections.abc import Mapping, Sequence
import datetime
import pathlib
import sys
import tempfile

from absl import logging
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io import atomic
from emv3_jax.metrics import fidelity
from emv3_jax.metrics.lip_sync import in_time, lateness
from emv3_jax.puppets import world
from emv3_jax.puppets.judging import samples
from emv3_jax.puppets.world import readers
from emv3_jax.runtime import command_line, program_cache
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling import clip as sampling
from emv3_jax.sampling.clip_calibration import calibrate
from emv3_jax.sampling.model import Model, load
from emv3_jax.sampling.settings import Config

NONE = "none"
SINGLE: dict[str, tuple[str, ...]] = {  # overrides of the config, by switch
    NONE: (),
    "teacache": ("sampling.cache.kind=teacache",),
    "magcache": ("sampling.cache.kind=magcache",),
    "magcache 0.06": ("sampling.cache.kind=magcache", "sampling.cache.threshold=0.06"),
    "magcache 0.24": ("sampling.cache.kind=magcache", "sampling.cache.threshold=0.24"),
    "guidance_until 0.5": ("sampling.guidance_until=0.5",),
    "text_scale 1": ("sampling.text_scale=1.0", "sampling.released_switch=False"),
    "int8": ("precision.transformer.params=int8",),
}
TOGETHER = (("magcache", "guidance_until 0.5"), ("magcache", "text_scale 1"), ("guidance_until 0.5", "text_scale 1"),
            ("teacache", "guidance_until 0.5", "text_scale 1"), ("magcache", "guidance_until 0.5", "text_scale 1"),
            ("magcache", "guidance_until 0.5", "text_scale 1", "int8"))
SWITCHES = SINGLE | {" + ".join(names): tuple(override for name in names for override in SINGLE[name])
                     for names in TOGETHER}
WORLD, CALIBRATED_ON = 2, 1  # seeds of the puppets' worlds
COLUMNS = {"switch": "{}", "evaluations": "{:.0f}", "seconds": "{:.2f}", "psnr": "{:.1f}", "ssim": "{:.3f}", "r": "{:.2f}"}


def model_of(flags, overrides: Sequence[str]) -> Model:
  given = [f"sampling.steps={flags.steps}", *flags.overrides, *overrides]
  config = config_lib.build(Config, command_line.read_config(flags.config, given, Config))
  return load(flags.model, samples.sized(config))


def measured(flags, name: str, clips: Sequence[world.Clip], calibrations: dict, folder: pathlib.Path) -> tuple[dict, list]:
  """Samples all clips with a switch; returns its row without PSNR and SSIM, and the videos."""
  overrides = SWITCHES[name]
  if any("cache" in override for override in overrides):
    overrides += (f"sampling.cache.file={calibration(flags, overrides, calibrations, folder)}",)
  model, rows = model_of(flags, overrides), []
  actor = samples.Actor(model)
  ask = lambda index: actor.request(clips[index], folder, clips[index].audio, flags.seed + index)
  sampling.sample(model, ask(0))  # compiles
  for index, clip in enumerate(clips):
    made = sampling.sample(model, ask(index))
    r = in_time(lateness(readers.opening(made.frames), clip.truth.opening))
    rows.append((made.report["network_evaluations"], made.report["seconds"]["transformer"], r, made.frames))
  evaluations, seconds, r, videos = zip(*rows, strict=True)
  return {"switch": name, "evaluations": float(np.mean(evaluations)), "seconds": float(np.median(seconds)),
          "r": float(np.median(r))}, list(videos)


def calibration(flags, overrides: Sequence[str], known: dict, folder: pathlib.Path) -> pathlib.Path:
  """Calibrates with the overrides of a switch, without its step cache; equal ones are calibrated once."""
  key = tuple(override for override in overrides if not override.startswith("sampling.cache."))
  if key not in known:
    model = model_of(flags, key)
    clip, = samples.render(1, flags.split, flags.frames, CALIBRATED_ON)
    request = samples.Actor(model).request(clip, folder, clip.audio)
    known[key] = calibrate(model, request, folder / f"calibration {len(known)}.json")
  return known[key]


def compared(row: dict, videos: Sequence[np.ndarray], plain: Sequence[np.ndarray]) -> dict:
  """Adds PSNR and SSIM to the clips without a switch; None where they are the same."""
  pairs = list(zip(videos, plain, strict=True))
  decibels = [fidelity.psnr(video, other) for video, other in pairs]
  return row | {"psnr": float(np.mean(decibels)) if np.isfinite(decibels).all() else None,
                "ssim": float(np.mean([fidelity.ssim(video, other) for video, other in pairs]))}


def line(row: Mapping) -> str:
  shown = ["same" if row[name] is None else form.format(row[name]) for name, form in COLUMNS.items()]
  return f"| {' | '.join(shown)} |"


def main(arguments: Sequence[str]) -> int:
  parser = command_line.Parser(description=__doc__)
  parser.add_argument("--config", default="configs/tiny.py")
  parser.add_argument("--model", help="model folder; default: the config's")
  parser.add_argument("--clips", type=int, default=10)
  parser.add_argument("--steps", type=int, default=25)
  parser.add_argument("--frames", type=int, default=samples.FRAMES, help="of a clip, 4k + 1")
  parser.add_argument("--split", default="held_out", help="of the puppets' world, docs/puppets.md")
  parser.add_argument("--seed", type=int, default=0, help="of the first clip's noise")
  parser.add_argument("--switches", help=f"by commas; default: all of {', '.join(SWITCHES)}")
  parser.add_argument("--json", type=pathlib.Path, help="write the rows to this file too")
  flags, flags.overrides = parser.parse(arguments)
  names = flags.switches.split(",") if flags.switches else list(SWITCHES)
  unknown = [name for name in names if name not in SWITCHES]
  if unknown:
    raise InputError(f"--switches names {unknown[0]!r}; known: {', '.join(SWITCHES)}.")
  if flags.clips < 1:
    raise InputError(f"--clips={flags.clips}; at least 1 is needed.")
  program_cache.use(Config("").program_cache)
  clips, rows, calibrations = samples.render(flags.clips, flags.split, flags.frames, WORLD), [], {}
  sys.stdout.write(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n")
  with tempfile.TemporaryDirectory() as folder:
    plain = None
    for name in [NONE, *(name for name in names if name != NONE)]:
      logging.info("Switch %s.", name)
      row, videos = measured(flags, name, clips, calibrations, pathlib.Path(folder))
      plain = plain or videos
      rows.append(compared(row, videos, plain))
      sys.stdout.write(line(rows[-1]) + "\n")
      sys.stdout.flush()
  if flags.json:
    atomic.write_json(flags.json, {
        "date": datetime.date.today().isoformat(), "command": " ".join(["python", "scripts/switches_tiny.py", *arguments]),
        "clips": flags.clips, "steps": flags.steps, "frames": flags.frames, "rows": rows,
        "weights": samples.weights_digest(model_of(flags, ()))})
  return 0


if __name__ == "__main__":
  command_line.run(main)
