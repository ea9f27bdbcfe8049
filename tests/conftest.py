"""Test session: CPU with eight devices, quick compilation, the golden summary at the end."""

import datetime
import json
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import logging
import pytest

from tests import golden_data
from tests.compiler import QUICK_FLAGS
import tests.type_checks  # noqa: F401 (the hook of jaxtyping looks it up in the package)


def pytest_addoption(parser):
  parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
  parser.addoption("--evidence", help="write outcomes, seconds and figures of the run as JSON")
  parser.addoption("--pictures", help="write screenshots of the page to this folder")
  parser.addoption("--parity", action="store_true", help="also run the tests marked parity")
  parser.addoption("--optimized", action="store_true",
                   help="compile as users do; so do --slow and --parity")


def pytest_configure(config):
  """Before the first program is compiled. Processes that tests start inherit it."""
  flags = "--xla_force_host_platform_device_count=8"
  if not any(map(config.getoption, ("--optimized", "--slow", "--parity"))):
    flags += f" {QUICK_FLAGS}"
  os.environ.setdefault("XLA_FLAGS", flags)


def pytest_collection_modifyitems(config, items):
  """Tests marked slow or parity run only when asked for."""
  unwanted = [mark for mark in ("slow", "parity") if not config.getoption(f"--{mark}")]
  dropped = [item for item in items if any(item.get_closest_marker(mark) for mark in unwanted)]
  if dropped:
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in set(dropped)]


def pytest_terminal_summary(terminalreporter):
  if not golden_data.errors:
    return
  terminalreporter.section("golden data")
  where = ", ".join(f"{count} loads from {source}" for source, count in golden_data.sources.items())
  terminalreporter.write_line(where)
  terminalreporter.write_line("| module | worst error | tolerance | comparisons |")
  terminalreporter.write_line("|---|---|---|---|")
  for module, (worst, tolerance, count) in sorted(golden_data.errors.items()):
    terminalreporter.write_line(f"| {module} | {worst:.1e} | {tolerance:.0e} | {count} |")


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_testnodedown(node, error):
  """Adds what a worker process measured (`pytest -n 2`) to what this one knows."""
  sources, errors = getattr(node, "workeroutput", {}).get("golden", ({}, {}))
  golden_data.merge(sources, errors)


_outcomes = {}


def pytest_runtest_logreport(report):
  """Keeps outcome, seconds and `record_property` figures of each test for --evidence."""
  entry = _outcomes.setdefault(report.nodeid, {"seconds": 0.0, "figures": {}})
  entry["seconds"] = round(entry["seconds"] + report.duration, 1)
  entry["figures"].update(report.user_properties)
  if report.when == "call" or report.outcome != "passed":
    entry["outcome"] = report.outcome


def pytest_sessionfinish(session, exitstatus):
  if hasattr(session.config, "workeroutput"):
    session.config.workeroutput["golden"] = (dict(golden_data.sources), golden_data.errors)
    return
  path = session.config.getoption("--evidence")
  if path and _outcomes:
    content = {"date": datetime.date.today().isoformat(), "exit_status": int(exitstatus),
               "tests": _outcomes}
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_text(json.dumps(content, indent=1, default=str) + "\n")


@pytest.fixture(autouse=True)
def log_level():
  """Command lines set absl's verbosity for the whole process; each test starts with the usual."""
  verbosity, level = logging.get_verbosity(), logging.get_absl_logger().level
  yield
  if logging.get_verbosity() != verbosity:
    logging.set_verbosity(verbosity)
  logging.get_absl_logger().setLevel(level)


@pytest.fixture
def rng():
  import numpy as np
  return np.random.default_rng(0)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """An empty checkout of another project; what is imported from it is forgotten afterwards."""
  (tmp_path / "src").mkdir()
  monkeypatch.setattr(sys, "path", list(sys.path))
  before = set(sys.modules)
  yield tmp_path
  for name in set(sys.modules) - before:
    if name.split(".")[0] == "src":
      del sys.modules[name]
