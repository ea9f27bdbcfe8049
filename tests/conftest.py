"""Test session: CPU with eight devices, the golden summary at the end."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import pytest  # noqa: E402

from tests import golden_data  # noqa: E402


def pytest_addoption(parser):
  parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
  parser.addoption("--parity", action="store_true", help="also run the tests marked parity")


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


@pytest.fixture
def rng():
  import numpy as np
  return np.random.default_rng(0)
