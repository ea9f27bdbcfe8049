"""The notebook of first steps: it runs, and it is kept without what a run leaves in it."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "notebooks/first_steps.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_nothing_of_a_run_is_kept():
  content = json.loads(NOTEBOOK.read_text())
  assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
  assert len({cell["id"] for cell in CELLS}) == len(CELLS)
  for cell in CELLS:
    if cell["cell_type"] == "code":
      assert cell["outputs"] == [] and cell["execution_count"] is None
  assert not re.search(r"/(home|work|Users|tmp)/", NOTEBOOK.read_text())


def test_what_it_imports_is_there():
  found = 0
  for node in ast.walk(ast.parse("\n".join(CODE))):
    if isinstance(node, ast.ImportFrom) and node.module.startswith("emv3_jax"):
      module = importlib.import_module(node.module)
      for alias in node.names:
        assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
        found += 1
  assert found > 8


@pytest.mark.slow
def test_it_runs(tmp_path):
  done = subprocess.run(
      [sys.executable, "-m", "tests.docs.run_notebook", str(NOTEBOOK)], cwd=ROOT, text=True,
      capture_output=True, env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "",
                                "HOME": str(tmp_path)})
  assert done.returncode == 0, done.stderr
  difference = re.search(r"difference to the clip above: (\S+)", done.stdout)
  assert float(difference[1]) < 1e-4
  losses = [float(loss) for loss in re.findall(r"^step +\d+ +loss (\S+)", done.stdout, re.MULTILINE)]
  assert len(losses) == 5 and losses[-1] < losses[0]
  assert done.stdout.count("PIL.Image.Image") == 3
