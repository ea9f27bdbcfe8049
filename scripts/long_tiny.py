"""Watches long clips of the small default: every mode, and what keeps windows together, on and off.

  python scripts/long_tiny.py                                     # 6 clips of 60 s in each of ten ways
  python scripts/long_tiny.py --modes=blended,chunked --clips=2 --seconds=10
  python scripts/long_tiny.py --write    # docs/evidence/long.json, its table in docs/long_video.md, and its plot

Held-out puppets say sentence after sentence without a pause. Each clip is measured from the file that was
written, and beside it short clips (65 frames) of the same puppet and pieces of the same sound. Prints a line of
JSON for each way and a table. Files are kept in --out: a run that was stopped goes on, and what is made of other
weights, settings or inputs is made anew. Two may run at the same time with other --modes, and a third one
sums up what they have made. Pictures are written twice as large, not as the model's settings say.
"""

import dataclasses
import datetime
import json
import pathlib
import sys
import time

from absl import logging
from PIL import Image

from emv3_jax import geometry
from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS, RATE
from emv3_jax.io import atomic
from emv3_jax.puppets import world
from emv3_jax.puppets.judging import long_clips, long_table, samples
from emv3_jax.puppets.world.mp4 import box_around
from emv3_jax.puppets.world.sentences import SAMPLES_PER_FRAME
from emv3_jax.runtime import command_line, program_cache
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling import output
from emv3_jax.sampling.clip import stream
from emv3_jax.sampling.fingerprint import fingerprint
from emv3_jax.sampling.long_settings import LongConfig
from emv3_jax.sampling.model import Model, load
from emv3_jax.sampling.settings import Config, Request
from emv3_jax.tasks import face_masks

DOCS = pathlib.Path(__file__).parents[1] / "docs"
MARK = "<!-- table -->"
WINDOW = 65  # frames of a smaller window
ENLARGE = 2  # a sixth of the time that pictures six times as large take to write and to read


def ways(max_frames: int) -> dict[str, LongConfig]:
  """The ways in which long clips are made, by their names."""
  half = geometry.frames_of(geometry.latent_frames(max_frames) // 2)
  found = {mode: LongConfig(mode=mode) for mode in ("blended", "paper", "paper_literal", "released", "chunked")}
  found |= {"no_anchor": LongConfig(anchor=False), "no_picture": LongConfig(keep_picture=False),
            "match_colour": LongConfig(match_colour=True), "half_overlap": LongConfig(overlap=half)}
  return found | ({f"window_{WINDOW}": LongConfig(window=WINDOW)} if max_frames > WINDOW else {})


def request_of(folder: pathlib.Path, model: Model, puppet: world.Clip, number: int, sound, name: str) -> Request:
  """Writes a puppet's portrait and its sound; returns the request."""
  folder.mkdir(parents=True, exist_ok=True)
  image, audio = folder / f"puppet_{number}.png", folder / f"{name}.wav"
  with atomic.atomic_file(image) as temporary:
    Image.fromarray(puppet.frames[0]).save(temporary, format="png")
  with atomic.atomic_file(audio) as temporary:
    samples.write_wav(temporary, sound)
  moves = model.config.settings.face_mask == face_masks.MOVING
  box = box_around(puppet.truth.face_box[:1] if moves else puppet.truth.face_box)
  return Request(audio=audio, image=image, prompt=puppet.caption, seed=number, face_box=box)


def made(model: Model, request: Request, video: pathlib.Path, sound, about: dict) -> dict:
  """Makes and measures one clip; returns what its measures were if they are there already."""
  kept, wanted = video.with_suffix(".judged.json"), fingerprint(model, request)
  if kept.is_file() and (known := json.loads(kept.read_text())).get("fingerprint") == wanted:
    return known
  opening = world.mouth_curve(sound, RATE, len(sound) // SAMPLES_PER_FRAME)
  start, spent = time.monotonic(), time.process_time()
  clip = stream(model, request)
  output.write(clip, video)
  written = time.monotonic()
  shown = long_clips.judge(video, opening, clip.overlaps)
  judged = time.monotonic()
  found = {"fingerprint": wanted, **about, "figures": shown.figures,
           "seam_by_chance": long_clips.seam_by_chance(shown.figures),
           "seen": shown.truth.seen.round(4).tolist(), "true": shown.truth.true.round(4).tolist(),
           "seconds": {"made": round(written - start, 1), "judged": round(judged - written, 1),
                       "of_processors": round(time.process_time() - spent, 1)}}
  atomic.write_json(kept, found)
  logging.info("%s: made in %.0f s (%s), judged in %.0f s, r %.3f.", video, written - start, ", ".join(
      f"{part} {seconds:.0f}" for part, seconds in clip.report["seconds"].items() if seconds >= 1),
      judged - written, shown.figures["lip_sync"]["r"])
  return found


def short_clips(model: Model, puppets: list[world.Clip], frames: int, flags) -> list[list[dict]]:
  """Makes the short clips of each puppet."""
  found = []
  for number, puppet in enumerate(puppets):
    sound, pieces = long_clips.voice(frames, number)[0], []
    for piece in range(flags.short):
      start = (frames - long_clips.BOXED) * piece // max(flags.short - 1, 1) * SAMPLES_PER_FRAME
      cut = sound[start:start + long_clips.BOXED * SAMPLES_PER_FRAME]
      name = f"short_{number}_{piece}"
      request = request_of(flags.out / "inputs", model, puppet, number, cut, name)
      request = dataclasses.replace(request, seed=1000 * (piece + 1) + number)
      pieces.append(made(model, request, flags.out / "short" / f"{name}.mp4", cut, {"puppet": puppet.truth.identity}))
    found.append(pieces)
  return found


def write(model: Model, clips: dict[str, list[dict]], found: dict[str, dict], flags) -> None:
  """Writes figures, plot and table."""
  with atomic.atomic_file(DOCS / "images/long_video.png") as temporary:
    long_table.draw(clips).save(temporary, format="png", optimize=True)
  atomic.write_json(DOCS / "evidence/long.json", {
      "date": datetime.date.today().isoformat(), "command": " ".join(["python", *sys.argv]),
      "weights": samples.weights_digest(model), "seconds": flags.seconds, "clips": flags.clips, "short": flags.short,
      "world": flags.world, "sampling": dataclasses.asdict(model.config.settings), "modes": found,
      "each": {name: [long_table.row(clip) for clip in each] for name, each in clips.items()}})
  before, _, after = (DOCS / "long_video.md").read_text(encoding="utf-8").split(MARK)
  with atomic.atomic_file(DOCS / "long_video.md") as temporary:
    temporary.write_text(f"{before}{MARK}\n{long_table.table(found)}{MARK}{after}", encoding="utf-8")


def main(arguments) -> int:
  parser = command_line.Parser(description=__doc__)
  parser.add_argument("--config", default="configs/tiny.py")
  parser.add_argument("--model", help="model folder; default: the config's")
  parser.add_argument("--modes", help="names, by commas; default: all")
  parser.add_argument("--clips", type=int, default=6, help="of each mode")
  parser.add_argument("--short", type=int, default=6, help="short clips of each puppet")
  parser.add_argument("--seconds", type=float, default=60, help="of a long clip")
  parser.add_argument("--world", type=int, default=2, help="seed of the puppets' world")
  parser.add_argument("--out", type=pathlib.Path, default="outputs/long", help="folder of videos")
  parser.add_argument("--write", action="store_true", help="write what docs/long_video.md shows")
  flags, overrides = parser.parse(arguments)
  frames = round(flags.seconds * FPS)
  if flags.clips < 1 or flags.short < 1 or frames < long_clips.BOXED:
    raise InputError(f"--clips={flags.clips} --short={flags.short} --seconds={flags.seconds:g}: at least one clip of "
                     f"each kind is needed, and {long_clips.BOXED / FPS:g} s.")
  config = samples.sized(config_lib.build(Config, command_line.read_config(flags.config, overrides, Config)))
  if config.sampling.enlarge is None:
    config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, enlarge=ENLARGE))
  program_cache.use(config.program_cache)
  plain = load(flags.model, config)
  known = ways(plain.config.settings.max_frames)
  names = list(known) if flags.modes is None else flags.modes.split(",")
  if strange := [name for name in names if name not in known]:
    raise InputError(f"--modes knows no {', '.join(strange)}; there are {', '.join(known)}.")
  puppets = long_clips.puppets(flags.clips, flags.world)
  short = short_clips(plain, puppets, frames, flags)
  clips: dict[str, list[dict]] = {}
  for name in names:
    model = load(flags.model, dataclasses.replace(
        config, sampling=dataclasses.replace(config.sampling, long=known[name])))
    clips[name] = []
    for number, puppet in enumerate(puppets):
      sound, spoken = long_clips.voice(frames, number)
      request = request_of(flags.out / "inputs", model, puppet, number, sound, f"long_{number}")
      clips[name].append(made(model, request, flags.out / name / f"clip_{number}.mp4", sound,
                              {"puppet": puppet.truth.identity, "sentences": spoken}))
    sys.stdout.write(json.dumps({"mode": name, **long_table.summary(clips[name], short)}) + "\n")
    sys.stdout.flush()
  found = {name: long_table.summary(each, short) for name, each in clips.items()}
  sys.stdout.write(long_table.table(found))
  if flags.write:
    write(plain, clips, found, flags)
  return 0


if __name__ == "__main__":
  command_line.run(main)
