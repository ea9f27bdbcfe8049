from absl import logging
import pytest


@pytest.fixture
def told(monkeypatch) -> list[str]:
  """The warnings that are logged."""
  lines = []
  monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
  return lines
