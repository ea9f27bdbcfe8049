"""Inputs of any kind to all commands; see `tests.fuzz.verdict` for what is right."""

import pytest

from tests.fuzz.inputs import Fuzzer


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
  fuzzer = Fuzzer(tmp_path_factory.mktemp("fuzz") / "all")
  yield fuzzer
  fuzzer.shell.close()


@pytest.mark.parametrize("index", range(40))
def test_a_command_ends_in_a_message_or_in_what_was_asked_for(fuzzer, index):
  found = fuzzer.try_one(16, index)
  assert not found, found


@pytest.mark.slow
@pytest.mark.parametrize("index", range(300))
def test_many_inputs_end_well(fuzzer, index):
  found = fuzzer.try_one(1, index)
  assert not found, found
