"""Writes puppets as MP4 files: python -m emv3_jax.puppets --out=DIR [--split=held_out] ..."""

import argparse
import sys

from emv3_jax.errors import InputError
from emv3_jax.puppets.world.mp4 import write_mp4s


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".")
  parser.add_argument("--out", required=True, help="folder for the files and clips.jsonl")
  parser.add_argument("--seed", type=int, default=0, help="of the world (default 0)")
  parser.add_argument("--count", type=int, default=1000, help="clips (default 1000)")
  parser.add_argument("--first", type=int, default=0, help="index of the first (default 0)")
  parser.add_argument("--split", default="train", help="train (default), crowd or held_out")
  parser.add_argument("--frames", type=int, default=17, help="a clip, at 25 a second (default 17)")
  wanted = parser.parse_args()
  try:
    write_mp4s(wanted.out, wanted.seed, wanted.count, wanted.split, wanted.frames, wanted.first)
  except InputError as error:
    sys.stderr.write(f"{error}\n")
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
