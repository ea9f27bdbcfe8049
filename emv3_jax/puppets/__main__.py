"""Writes puppets as MP4 files: python -m emv3_jax.puppets --out=DIR [--split=held_out] ..."""

from collections.abc import Sequence

from emv3_jax.limits import MANY, SEED, check
from emv3_jax.puppets.world.mp4 import write_mp4s
from emv3_jax.runtime import command_line

# Of the flags; a clip is drawn as a whole, in memory.
_RANGES = {"seed": SEED, "count": (1, MANY), "first": (0, MANY), "frames": (1, 10_000)}


def main(arguments: Sequence[str]) -> int:
  parser = command_line.Parser(prog="python -m emv3_jax.puppets", description=(__doc__ or "").partition(":")[0] + ".")
  parser.add_argument("--out", required=True, help="folder for the files and clips.jsonl")
  parser.add_argument("--seed", type=int, default=0, help="of the world (default 0)")
  parser.add_argument("--count", type=int, default=1000, help="clips (default 1000)")
  parser.add_argument("--first", type=int, default=0, help="index of the first (default 0)")
  parser.add_argument("--split", default="train", help="train (default), crowd, mixed or held_out")
  parser.add_argument("--frames", type=int, default=17, help="a clip, at 25 a second (default 17)")
  wanted = parser.parse_args(arguments)
  for name, limits in _RANGES.items():
    check(f"--{name}", getattr(wanted, name), limits)
  write_mp4s(wanted.out, wanted.seed, wanted.count, wanted.split, wanted.frames, wanted.first)
  return 0


if __name__ == "__main__":
  command_line.run(main)
