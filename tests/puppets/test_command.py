"""python -m emv3_jax.puppets: what it refuses before anything is drawn."""

import pytest

from emv3_jax.errors import InputError
from emv3_jax.puppets.__main__ import main


@pytest.mark.parametrize("argument, message", [
    ("--count=0", "--count is 0; it must be 1 or more"), ("--frames=1000000000000", "it must be from 1 to 10000"),
    ("--seed=-1", "--seed is -1"), ("--first=-3", "--first is -3"), ("--count=x", "invalid int value"),
    ("--split=x", "no split 'x'")])
def test_wrong_numbers(tmp_path, argument, message):
  with pytest.raises(InputError, match=message):
    main([f"--out={tmp_path}/new", "--count=1", argument])
  assert not any(tmp_path.rglob("*.mp4"))
