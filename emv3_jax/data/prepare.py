"""The name of the command `python -m emv3_jax.preparation` in version 0.1; it still runs."""

import runpy
import sys

if __name__ == "__main__":
  sys.stderr.write("python -m emv3_jax.data.prepare is python -m emv3_jax.preparation now.\n")
  runpy.run_module("emv3_jax.preparation", run_name="__main__")
