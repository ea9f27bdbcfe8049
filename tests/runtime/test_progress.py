"""What is told while work goes on: on a terminal by a bar, in a file by lines."""

import io
import logging as std_logging
import sys
import time

from absl import logging
import jax
import pytest

from emv3_jax.runtime import command_line, program_cache, start_up
from emv3_jax.sampling import profile as profile_lib
from emv3_jax.training import loop


class Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


@pytest.fixture
def spoken(monkeypatch):
  """Lines of `absl.logging.info`."""
  lines = []
  monkeypatch.setattr(logging, "info", lambda text, *values: lines.append(text % values))
  return lines


def test_in_a_file_progress_is_lines(monkeypatch, spoken):
  monkeypatch.setattr(sys, "stderr", io.StringIO())
  assert list(command_line.progress(range(3), "sampling", "step")) == [0, 1, 2]
  assert sys.stderr.getvalue() == "" and spoken == ["Sampling: step 3 of 3."]
  monkeypatch.setattr(command_line, "LINE_EVERY", 0.0)
  assert len(list(command_line.progress(range(3), "sampling", "step"))) == 3
  assert spoken[1:] == [f"Sampling: step {number} of 3." for number in (1, 2, 3)]
  assert not list(command_line.progress(range(0), "sampling", "step")) and len(spoken) == 4


def test_on_a_terminal_messages_stand_above_the_bar(monkeypatch):
  monkeypatch.setattr(sys, "stderr", Terminal())
  write = command_line._above_bars(lambda text: sys.stderr.write(f"{text}\n"))
  for step in command_line.progress(range(2), "sampling", "step"):
    write(f"message {step}")
    command_line.tell(f"told {step}")
  shown = [line.rpartition("\r")[2] for line in sys.stderr.getvalue().split("\n")]
  assert shown[:4] == ["message 0", "told 0", "message 1", "told 1"]
  assert "sampling: 100%" in shown[4] and "2/2" in shown[4]


@pytest.mark.parametrize("module, level, shown", [
    (loop, "INFO", True), (command_line, "INFO", True), (jax, "INFO", False), (jax, "WARNING", True)],
    ids=["of a room", "of the command lines", "of a library", "warning of a library"])
def test_messages_of_the_whole_package_are_shown(module, level, shown):
  record = std_logging.LogRecord("absl", getattr(std_logging, level), module.__file__, 1, "said", (), None)
  assert command_line._is_shown(record) == shown


def test_every_part_begins_with_a_line(spoken):
  profile = profile_lib.Profile()
  for name in profile_lib.DESCRIPTIONS:
    with profile.measure(name):
      assert start_up.work == profile_lib.DESCRIPTIONS[name]
  assert spoken == [f"{doing} ..." for doing in profile_lib.DESCRIPTIONS.values()]
  assert start_up.work == ""


def test_programs_that_take_their_time_are_told_once_for_each_part(spoken):
  announcer = program_cache.Announcer(patience=0.02)
  announcer.kept = "are kept in there"

  def build(seconds: float) -> None:
    announcer.on_miss()
    time.sleep(seconds)
    announcer.on_duration(program_cache._COMPILED, seconds)

  with start_up.at_work("Encoding the voice"):
    build(0.0)
    time.sleep(0.1)
    assert not spoken, "quickly built"
    build(0.3)
    build(0.3)
  build(0.3)
  assert spoken == ["Building programs (encoding the voice), once for sizes and settings like these; "
                    "they are kept in there.", "Building programs."]
