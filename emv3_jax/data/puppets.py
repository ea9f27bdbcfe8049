"""The name of the command `python -m emv3_jax.puppets` in version 0.1; it still runs."""

import runpy
import sys

if __name__ == "__main__":
  sys.stderr.write("python -m emv3_jax.data.puppets is python -m emv3_jax.puppets now.\n")
  runpy.run_module("emv3_jax.puppets", run_name="__main__")
