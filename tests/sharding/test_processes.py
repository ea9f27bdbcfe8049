"""Two processes with four devices each give the numbers of one process with eight."""

import functools
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.compiler import QUICK
from tests.multiprocess import worker

ROOT = pathlib.Path(__file__).parents[2]


# Sums between processes are in another order; some gradients are small differences.
@pytest.mark.parametrize("work, tolerance", [
    ("latents", 1e-5), pytest.param("gradients", 2e-4, marks=pytest.mark.slow)])
def test_two_processes_are_one(tmp_path, monkeypatch, work, tolerance):
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{probe.getsockname()[1]}"
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  out = tmp_path / "results.npz"
  processes = [subprocess.Popen(
      [sys.executable, "-m", "tests.multiprocess.worker", work, address, "2", str(index), str(out)],
      cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
               for index in range(2)]
  try:
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=QUICK))
    want = worker.WORK[work]()
    logs = [process.communicate(timeout=300)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [0, 0], "\n".join(logs)
  got = np.load(out)
  assert set(got.files) == want.keys()
  for name in want:
    np.testing.assert_allclose(got[name], want[name], err_msg=name,
                               atol=tolerance * np.abs(want[name]).max())
