"""CPU seconds of the networks here against PyTorch's, in turns on the same cores.

  python -m benchmarks                                 # against diffusers
  python -m benchmarks --reference=PATH                # against a checkout of the released code
  python -m benchmarks --cases=vae_decode --size=small --rounds=2

Prints a table; its figure is the ratio of the smallest user + system CPU seconds of all rounds, ours
over theirs, with the same ratio of wall seconds beside it. Leave the machine idle. Needs Linux and
the extra `parity`.
"""

from collections.abc import Sequence
import json
import pathlib
import sys

from absl import logging

from benchmarks import cases, report, turns
from emv3_jax.errors import InputError
from emv3_jax.io import atomic
from emv3_jax.runtime import command_line


def main(arguments: Sequence[str]) -> int:
  parser = command_line.Parser(prog="python -m benchmarks", description=__doc__)
  parser.add_argument("--cases", help=f"some of {','.join(cases.NAMES)}")
  parser.add_argument("--size", default="full", choices=tuple(cases.SIZES))
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--cores", type=int, default=2)
  parser.add_argument("--reference", help="checkout of the released PyTorch code; then B is that")
  parser.add_argument("--json", type=pathlib.Path, help="file of all figures; those of other cases stay in it")
  flags, overrides = parser.parse(arguments)
  if overrides:
    raise InputError("There is no config here; see python -m benchmarks --help.")
  if flags.rounds < 1 or flags.cores < 1:
    raise InputError("--rounds and --cores are counts from 1.")
  against = "reference" if flags.reference else "diffusers"
  names = flags.cases.split(",") if flags.cases else [
      name for name in cases.NAMES if against == "diffusers" or name != "transformer"]
  for name in names:
    cases.find(name, flags.size)

  done = []
  for name in names:
    logging.info("%s, %d rounds against %s.", name, flags.rounds, against)
    done.append(turns.compare(name, flags.size, "ours", against, rounds=flags.rounds,
                              cores=flags.cores, reference=flags.reference))
  sys.stdout.write(report.table(done) + "\n")
  if flags.json:
    before = json.loads(flags.json.read_text()) if flags.json.exists() else {}
    new = report.evidence(done, size=flags.size, cores=flags.cores)
    atomic.write_json(flags.json, before | new)
  return 0


if __name__ == "__main__":
  command_line.run(main)
