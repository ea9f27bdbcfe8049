"""Seconds by kind: what overlaps counts once, and all of them add up."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from emv3_jax.runtime import start_up


def test_kinds_add_up_to_the_total(monkeypatch):
  now = 100.0
  monkeypatch.setattr(start_up.time, "monotonic", lambda: now)
  clock = start_up.Clock(imported=3.0)
  clock.add("trace", 1.0)  # an inner function
  clock.add("trace", 4.0)  # the one that calls it
  now = 110.0
  clock.add("load", 2.0)
  clock.add("compile", 5.0)  # found in the cache within it
  now = 111.0
  clock.add("place", 1.0)
  clock.add("read", 2.0)  # overlaps the end of compiling
  found = clock.summary(20.0)
  assert found == {"import": 3.0, "devices": 0.0, "read": 0.0, "place": 1.0, "trace": 4.0,
                   "compile": 3.0, "load": 2.0, "run": 7.0, "total": 20.0}
  assert clock.programs() == {"compiled": 0, "from_cache": 1}


def test_compiling_and_reading_are_seen():
  before = start_up.spent()
  unique = time.time()  # a cache of programs that another test turned on does not have it
  jax.jit(lambda x: jnp.tanh(x) * unique)(jnp.ones(11))
  with start_up.part("read"):
    time.sleep(0.05)
  after = start_up.spent()
  gained = lambda kind: after["seconds"][kind] - before["seconds"][kind]
  assert gained("trace") > 0 or gained("compile") > 0
  assert 0.04 <= gained("read") < 0.5
  assert after["programs"]["compiled"] > before["programs"]["compiled"]
  assert "in all. Programs: " in start_up.describe()


def test_imports_count_from_the_start_of_the_process():
  script = "import time; time.sleep(0.5); from emv3_jax.runtime import start_up; print(start_up.spent())"
  began = time.monotonic()
  out = subprocess.run([sys.executable, "-c", script], check=True, text=True, capture_output=True)
  seconds = eval(out.stdout)["seconds"]
  assert 0.5 < seconds["import"] <= seconds["total"] <= time.monotonic() - began + 0.02
  assert sum(seconds.values()) - seconds["total"] == pytest.approx(seconds["total"], abs=0.05)
