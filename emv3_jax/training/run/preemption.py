"""Being asked to stop: SIGTERM to any process of a run, or Ctrl-C.

Where JAX joins several processes, its preemption service hears SIGTERM on any of them and finds a
step that none has passed; all stop there. A single process hears SIGTERM and SIGINT by itself.
"""

import os
import signal
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils


class Preemption:
  """Hears requests from when it is entered; a context manager.

  A second Ctrl-C interrupts at once.
  """

  def __init__(self):
    self._joined = jax.process_count() > 1
    self._asked = False
    self._old: dict[int, Any] = {}

  def __enter__(self) -> "Preemption":
    # With several processes SIGTERM is left to JAX's service, which would lose it.
    signals = (signal.SIGINT,) if self._joined else (signal.SIGINT, signal.SIGTERM)
    self._old = {number: signal.signal(number, self._hear) for number in signals}
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def _hear(self, number: int, _) -> None:
    if self._asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._asked = True
    logging.info("%s: stopping after this step, with a checkpoint.", signal.Signals(number).name)
    if self._joined:
      os.kill(os.getpid(), signal.SIGTERM)

  def reached(self, step: int) -> bool:
    """Whether the run is to stop, with `step` steps done; every process calls it each step."""
    if self._joined:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked
