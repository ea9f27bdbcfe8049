"""python -m tests.fuzz [--seed=0] [--first=0] [--count=300] [--keep=DIR]: see tests/fuzz/__init__.py."""

import argparse
import pathlib
import shutil
import sys
import tempfile
import time

from tests.fuzz.inputs import Fuzzer


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--first", type=int, default=0)
  parser.add_argument("--count", type=int, default=300)
  parser.add_argument("--keep", type=pathlib.Path, help="new folder in which inputs stay; else they are removed")
  options = parser.parse_args()
  root = options.keep or pathlib.Path(tempfile.mkdtemp())
  fuzzer, failed, start = Fuzzer(root.absolute()), 0, time.monotonic()
  try:
    for index in range(options.first, options.first + options.count):
      found = fuzzer.try_one(options.seed, index)
      failed += bool(found)
      sys.stdout.write(f"{found}\n\n" if found else "")
      sys.stdout.flush()
      if options.keep is None:
        shutil.rmtree(root / f"{options.seed}_{index}")
    sys.stdout.write(f"{failed} of {options.count} failed, {time.monotonic() - start:.0f} s.\n")
  finally:
    fuzzer.shell.close()
    if options.keep is None:
      shutil.rmtree(root)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
