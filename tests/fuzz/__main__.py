"""python -m tests.fuzz [--seed=0] [--first=0] [--count=300] [--keep=DIR] [--verbose]: see tests/fuzz/__init__.py."""

import argparse
import os
import pathlib
import shutil
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.fuzz.inputs import Fuzzer


def _tell(case, ended) -> None:
  sys.stdout.write(f"{case.folder.name} {case.command} {ended.code} {' '.join(ended.message)[:200]!a}\n")


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--first", type=int, default=0)
  parser.add_argument("--count", type=int, default=300)
  parser.add_argument("--keep", type=pathlib.Path, help="new folder in which inputs stay; else they are removed")
  parser.add_argument("--verbose", action="store_true", help="a line for each input")
  options = parser.parse_args()
  root = options.keep or pathlib.Path(tempfile.mkdtemp())
  fuzzer, failed, start = Fuzzer(root.absolute()), 0, time.monotonic()
  try:
    for index in range(options.first, options.first + options.count):
      found = fuzzer.try_one(options.seed, index, _tell if options.verbose else lambda case, ended: None)
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
