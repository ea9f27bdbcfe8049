"""Seconds of a run by part, and its peak memory."""

from types import SimpleNamespace

import jax
import pytest

from emv3_jax.training.monitor import resources
from emv3_jax.training.monitor.resources import Memory, Seconds


def test_parts_add_up_to_the_time_between_records(monkeypatch):
  clock = iter([0.0, 2.0, 5.0, 10.0, 11.0])
  monkeypatch.setattr("time.perf_counter", lambda: next(clock))
  seconds = Seconds()
  with seconds.measure("checkpoint"):
    pass
  seconds.add("data", 0.5)
  seconds.add("export", 1.0)
  found = seconds.read()
  assert found == {"seconds/data": 0.5, "seconds/step": 5.5, "seconds/checkpoint": 3.0,
                   "seconds/previews": 0.0, "seconds/export": 1.0}
  assert sum(found.values()) == 10
  assert seconds.read() == {**dict.fromkeys([f"seconds/{part}" for part in resources.PARTS], 0.0),
                            "seconds/step": 1.0}


def test_a_block_that_fails_counts(monkeypatch):
  clock = iter([0.0, 1.0, 4.0, 4.0])
  monkeypatch.setattr("time.perf_counter", lambda: next(clock))
  seconds = Seconds()
  with pytest.raises(ValueError, match="no"), seconds.measure("previews"):
    raise ValueError("no")
  assert seconds.read()["seconds/previews"] == 3


def test_peak_memory(monkeypatch):
  """The host's stays where a preview's profile starts it anew; devices that count nothing tell nothing."""
  peaks = iter([3 << 20, 1 << 20, 5 << 20])
  monkeypatch.setattr(resources.resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=next(peaks)))
  memory = Memory()
  memory.sample()
  monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: None)])
  assert memory.read() == {"memory/host_peak_gib": 3.0}
  devices = [SimpleNamespace(memory_stats=lambda peak=peak: {"peak_bytes_in_use": peak << 30})
             for peak in (2, 7, 4)]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  assert memory.read() == {"memory/host_peak_gib": 5.0, "memory/device_peak_gib": 7.0}
