"""Times of a process by kind, from its start: import, read, compile, run.

JAX reports tracing and compiling as events; code that reads parameters, or puts them on devices,
reports its time with `part`. Overlapping intervals are counted once; `run` is the remaining time.
"""

from collections.abc import Iterator
import contextlib
import functools
import os
import pathlib
import time

import jax

KINDS = ("import", "devices", "read", "place", "trace", "compile", "load", "run")
_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace",
    "/jax/core/compile/backend_compile_duration": "compile",
    "/jax/compilation_cache/cache_retrieval_time_sec": "load",
}
_LOADED = time.monotonic()

work = ""  # name of the current work, see `at_work`

Interval = tuple[float, float]


class Clock:
  """Intervals of each kind of work; the clock starts `imported` seconds after the start of the process."""

  def __init__(self, imported: float):
    self.imported = imported
    self.executables = 0  # loaded without tracing
    self.intervals: dict[str, list[Interval]] = {kind: [] for kind in KINDS[1:-1]}

  def add(self, kind: str, seconds: float) -> None:
    """Adds the last `seconds` to a kind."""
    now = time.monotonic()
    self.intervals[kind].append((now - seconds, now))

  def add_executable(self, seconds: float) -> None:
    """Adds the last `seconds` as the loading of an executable that was not traced."""
    self.executables += 1
    self.add("load", seconds)

  def on_event(self, event: str, duration_secs: float, **_) -> None:
    if event in _EVENTS:
      self.add(_EVENTS[event], duration_secs)

  def summary(self, age: float) -> dict[str, float]:
    """Returns seconds by kind up to `age` seconds after the start; their sum is `total`."""
    found, counted = {"import": self.imported}, []
    # Compiling may contain loading, and tracing compiling: the inner kind is counted first.
    for kind in ("load", "compile", "trace", "place", "read", "devices"):
      before = _length(counted)
      counted += self.intervals[kind]
      found[kind] = _length(counted) - before
    found["run"] = max(0.0, age - sum(found.values()))
    return {kind: round(found[kind], 2) for kind in KINDS} | {"total": round(age, 2)}

  def programs(self) -> dict[str, int]:
    """Returns the numbers of programs that were compiled and that were loaded from the program cache."""
    cached = len(self.intervals["load"])
    # JAX counts what it takes from its own cache as compiled too.
    return {"compiled": len(self.intervals["compile"]) - (cached - self.executables), "from_cache": cached}


@functools.cache
def watch() -> Clock:
  """Starts the clock; earlier time counts as `import`. The command lines call it first."""
  clock = Clock(_process_age())
  jax.monitoring.register_event_duration_secs_listener(clock.on_event)
  return clock


@contextlib.contextmanager
def part(kind: str) -> Iterator[None]:
  """Counts the time of the `with` block as kind `devices`, `read` or `place`."""
  clock, start = watch(), time.monotonic()
  try:
    yield
  finally:
    clock.add(kind, time.monotonic() - start)


@contextlib.contextmanager
def at_work(name: str) -> Iterator[None]:
  """Sets the name of the work in the `with` block, for messages about programs that it compiles."""
  global work
  work, before = name, work
  try:
    yield
  finally:
    work = before


def spent() -> dict:
  """Returns seconds by kind since the start of the process, and numbers of programs; can be written as JSON.

  Kinds: `import` is loading Python and packages; `devices` finding the devices; `read` reading
  parameters from disk or initialising them (sharded parameters are placed on the devices while they
  are read); `place` copying them to the devices; `trace` turning Python into programs; `compile`
  compiling these; `load` loading compiled ones from the cache; `run` the rest.
  """
  return {"seconds": watch().summary(_process_age()), "programs": watch().programs()}


def describe() -> str:
  """Formats `spent` as one line."""
  found = spent()
  seconds = dict(found["seconds"])
  total = seconds.pop("total")
  parts = ", ".join(f"{kind} {value:.1f}" for kind, value in seconds.items())
  return (f"{parts}; {total:.1f} in all. Programs: {found['programs']['compiled']} compiled, "
          f"{found['programs']['from_cache']} from the cache.")


def _length(intervals: list[Interval]) -> float:
  """Returns the length of the union of intervals."""
  length, end = 0.0, float("-inf")
  for first, last in sorted(intervals):
    length += max(0.0, last - max(first, end))
    end = max(end, last)
  return length


def _process_age() -> float:
  """Returns the seconds since the start of the process, or since the import if the system does not know it."""
  try:
    fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
  except OSError:
    return time.monotonic() - _LOADED
  started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
  return time.clock_gettime(time.CLOCK_BOOTTIME) - started
