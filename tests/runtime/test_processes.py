"""What processes of one run agree on; the others are stood in for."""

import argparse

import pytest

from emv3_jax.errors import InputError
from emv3_jax.runtime import processes


def test_together_gives_the_result_or_the_error():
  assert processes.run_on_all(lambda: 3) == 3

  def fail():
    raise InputError("no such file")

  with pytest.raises(InputError, match="no such file"):
    processes.run_on_all(fail)


def test_together_hears_of_errors_elsewhere(monkeypatch):
  monkeypatch.setattr(processes, "any_process", lambda flag: True)
  with pytest.raises(InputError, match="Another process of the run"):
    processes.run_on_all(lambda: 3)


@pytest.mark.parametrize("arguments, message", [
    (["--coordinator=a:1"], "go together"), (["--process_id=0", "--num_processes=2"], "go together"),
    (["--distributed", "--process_id=0"], "by itself; leave it out")])
def test_flags_that_go_together(arguments, message, monkeypatch):
  monkeypatch.setattr(processes.jax.distributed, "initialize", None)
  parser = argparse.ArgumentParser()
  processes.add_flags(parser)
  with pytest.raises(InputError, match=message):
    processes.join(parser.parse_args(arguments))
  processes.join(parser.parse_args([]))
