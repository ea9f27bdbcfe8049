"""Of several runs one has a job; what a run that ended left is taken over."""

import os
import subprocess
import sys
import time

import pytest

from emv3_jax.errors import InputError
from emv3_jax.jobs import claims as claims_lib
from emv3_jax.jobs.claims import Claims


def elsewhere(monkeypatch, name: str) -> None:
  """What is done next is done on another machine."""
  monkeypatch.setattr(claims_lib, "_where", lambda: name)


def test_one_of_two_runs_has_a_job(tmp_path):
  one, two = Claims(tmp_path), Claims(tmp_path)
  with one.take("a") as claim:
    assert claim.is_held() and two.take("a") is None and one.take("a") is None
    assert two.owner("a").startswith(f"process {os.getpid()} on ")
    with two.take("b"):
      pass
  assert not list(tmp_path.iterdir()) and two.owner("a") == ""
  with two.take("a"):
    assert one.take("a") is None


def test_a_killed_owner_on_this_machine_is_known_at_once(tmp_path):
  code = "import os, sys; from emv3_jax.jobs.claims import Claims; Claims(sys.argv[1]).take('a'); os.kill(os.getpid(), 9)"
  subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
  left = {".a.0123abcd.part.mp4", ".a.latents.0123abcd.part.npy"}
  others = {".ab.0123abcd.part.mp4", ".a.b.c.0123abcd.part.mp4", "a.part.mp4"}
  for name in left | others:
    (tmp_path / name).touch()
  with Claims(tmp_path).take("a") as claim:
    assert claim.number == 2
    assert {path.name for path in tmp_path.iterdir()} == others | {".a.1.claim", ".a.2.claim"}
  assert {path.name for path in tmp_path.iterdir()} == others


def test_a_claim_of_another_machine_is_taken_over_when_nobody_touches_it(tmp_path, monkeypatch):
  elsewhere(monkeypatch, "one")
  left = Claims(tmp_path, seconds=1000).take("a")
  elsewhere(monkeypatch, "two")
  other = Claims(tmp_path, seconds=0.2)
  begin = time.monotonic()
  while time.monotonic() - begin < 0.5:
    assert other.take("a") is None, "its owner is alive"
    left.touch()
    time.sleep(0.02)
  assert other.take("a") is None
  time.sleep(0.3)
  taken = other.take("a")
  assert taken.number == 2 and taken.is_held() and not left.is_held()
  left._claims.release(left)
  assert taken.is_held(), "an owner that comes back takes nothing away"
  other.release(taken)
  assert not list(tmp_path.iterdir())


def test_a_claim_whose_owner_wrote_nothing_is_taken_over_too(tmp_path):
  """It was killed between the creation of the file and its content."""
  (tmp_path / ".a.1.claim").touch()
  claims = Claims(tmp_path, seconds=0.05)
  assert claims.take("a") is None
  time.sleep(0.1)
  with claims.take("a") as claim:
    assert claim.number == 2
  assert not list(tmp_path.iterdir())


def test_an_owner_touches_its_claims(tmp_path):
  claims = Claims(tmp_path, seconds=0.2)
  with claims.take("a") as claim:
    os.utime(claim.path, (0, 0))
    time.sleep(0.2)
    assert claim.path.stat().st_mtime > 0


def test_two_that_take_over_at_the_same_time(tmp_path, monkeypatch):
  """Between the look of one and its claim the other may take the job, finish it, and give it back."""
  elsewhere(monkeypatch, "gone")
  Claims(tmp_path).take("a")
  elsewhere(monkeypatch, "here")
  slow, quick = Claims(tmp_path), Claims(tmp_path)
  monkeypatch.setattr(slow, "_is_left", lambda *_: True)
  monkeypatch.setattr(quick, "_is_left", lambda *_: True)
  create = slow._create

  def after_the_other(name, number):
    with quick.take(name) as claim:
      assert claim.number == 2
    return create(name, number)

  monkeypatch.setattr(slow, "_create", after_the_other)
  assert slow.take("a") is None and not list(tmp_path.iterdir())


def test_a_folder_where_nothing_can_be_claimed(tmp_path, monkeypatch):
  with pytest.raises(InputError, match="a cannot be claimed .No such file"):
    Claims(tmp_path / "absent").take("a")

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(claims_lib.os, "write", full)
  with pytest.raises(InputError, match="a cannot be claimed .No space left on device"):
    Claims(tmp_path).take("a")
  assert not list(tmp_path.iterdir())
