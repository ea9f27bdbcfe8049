"""Runs `python -m convert` with the given arguments and prints its peak memory as JSON.

    python -m scripts.peak_memory SOURCE DEST ...

Anonymous and shared memory (RssAnon + RssShmem) is polled every few milliseconds; the baseline is
what the interpreter has after its imports.
"""

import json
import pathlib
import sys
import threading
import time


def resident() -> int:
  """Anonymous and shared memory of this process in bytes; mapped files are not counted."""
  status = pathlib.Path("/proc/self/status").read_text()
  fields = dict(line.split(":", 1) for line in status.splitlines())
  return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def main(arguments: list[str]) -> int:
  from emv3_jax.convert.__main__ import main as convert
  baseline = peak = resident()
  done = threading.Event()

  def poll():
    nonlocal peak
    while not done.wait(0.005):
      peak = max(peak, resident())

  thread = threading.Thread(target=poll, daemon=True)
  thread.start()
  start = time.perf_counter()
  code = convert(arguments)
  seconds = time.perf_counter() - start
  done.set()
  thread.join()
  print(json.dumps({"code": code, "seconds": round(seconds, 1), "baseline_bytes": baseline,
                    "peak_bytes": peak - baseline}))
  return code


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
