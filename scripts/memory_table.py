"""Plans the preview model at several sizes and writes docs/memory.md.

  python scripts/memory_table.py [--only=v5e:1x1,h100:1x1x1] [--frames=81,113] [--sizes=768x768]
  python scripts/memory_table.py --encoders
  python scripts/memory_table.py --write

Each plan takes half a minute to two of a core. Results are kept in docs/evidence/memory.json, and
what is there is not planned again: the table can be completed bit by bit. Needs the extra plan-tpu,
plan-gpu or both, according to the targets.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys

from emv3_jax.components.config import QUANTISED
from emv3_jax.configs import echomimic_v3_preview
from emv3_jax.io import atomic
from emv3_jax.plan import planner, targets
from emv3_jax.runtime import command_line
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.settings import Config

DOCS = pathlib.Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "evidence/memory.json"
TARGETS = {"v5e": "v5e:1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1", "H100": "h100:1x1x1"}
CARDS = {"12 GB": 11.0, "24 GB": 22.5}  # GiB left by driver and libraries
SIZES = ("480x832", "768x768")
FRAMES = (49, 81, 113)
PARTS = {  # row of the table -> program, guidance branches
    "sampling step, batched": ("sample_step", "batched"),
    "sampling step, in turn": ("sample_step", "in_turn"),
    "sampling step, batched, int8": ("sample_step", "batched"),
    "VAE decode": ("vae_decode", "batched"),
    "VAE encode": ("vae_encode", "batched"),
}
ENCODERS = {  # row of the table -> program; they do not depend on the size
    "umT5-XXL, all layers": "text_encoder",
    "umT5-XXL, all layers, int8": "text_encoder",
    "CLIP": "image_encoder",
    "wav2vec 2.0, 113 frames": "audio_encoder",
}
MARK = "<!-- table -->"


def config_for(size: str, frames: int, part: str) -> Config:
  height, width = map(int, size.split("x"))
  config = config_lib.build(Config, echomimic_v3_preview.get_config())
  sampling = dataclasses.replace(config.sampling, height=height, width=width, max_frames=frames,
                                 branches=PARTS.get(part, ("", "batched"))[1])
  config = dataclasses.replace(config, sampling=sampling)
  if not part.endswith("int8"):
    return config
  int8 = {name: dataclasses.replace(getattr(config.precision, name), params="int8") for name in QUANTISED}
  return dataclasses.replace(config, precision=dataclasses.replace(config.precision, **int8))


def read() -> dict[str, float]:
  return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def key(size: str, frames: int | str, part: str, target: str) -> str:
  return " ".join(f"{size} {frames} {part} {target}".split())


def table(results: dict[str, float]) -> str:
  """Markdown; peaks in GiB of a device, empty where not planned yet."""
  header = ["size", "frames", "part", *TARGETS, *CARDS]
  rows = [header, ["---"] * len(header)]
  cells = [*itertools.product(SIZES, FRAMES, PARTS), *(("any", "", name) for name in ENCODERS)]
  for size, frames, part in cells:
    peaks = [results.get(key(size, frames, part, target)) for target in TARGETS.values()]
    if not any(peaks):
      continue
    gpu = peaks[-1]
    cards = ["" if gpu is None else "yes" if gpu <= room else "no" for room in CARDS.values()]
    rows.append([size, str(frames), part, *("" if p is None else f"{p:.2f}" for p in peaks),
                 *cards])
  return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def complete(name: str, config: Config, target: str, program: str) -> None:
  """Plans a cell of the table unless it is there."""
  if name in read():
    return
  (line,) = planner.plan(config, targets.parse(target), names=[program])
  sys.stderr.write(f"{name}: {line['peak_gib']:.2f} GiB\n")
  RESULTS.parent.mkdir(exist_ok=True)
  atomic.write_json(RESULTS, dict(sorted({**read(), name: line["peak_gib"]}.items())))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--only", default=",".join(TARGETS.values()), help="targets")
  parser.add_argument("--frames", default=",".join(map(str, FRAMES)))
  parser.add_argument("--sizes", default=",".join(SIZES))
  parser.add_argument("--encoders", action="store_true", help="plan the encoders instead")
  parser.add_argument("--write", action="store_true", help="only write the table")
  flags = parser.parse_args()
  command_line.stay_on_cpu_without_accelerator()
  for target in [] if flags.write else flags.only.split(","):
    if flags.encoders:
      for part, program in ENCODERS.items():
        complete(key("any", "", part, target), config_for("768x768", 113, part), target,
                 program)
      continue
    for size, frames, part in itertools.product(
        flags.sizes.split(","), map(int, flags.frames.split(",")), PARTS):
      complete(key(size, frames, part, target), config_for(size, frames, part), target, PARTS[part][0])
  page = DOCS / "memory.md"
  before, _, rest = page.read_text().partition(MARK)
  after = rest.partition(MARK)[2]
  with atomic.atomic_file(page) as partial:
    partial.write_text(f"{before}{MARK}\n{table(read())}\n{MARK}{after}")


if __name__ == "__main__":
  main()
