"""A trace of some steps of a run, for TensorBoard or XProf."""

import pathlib

import jax


class Profile:
  """Traces the steps from `steps[0]` up to `steps[1]` into a folder; a context manager."""

  def __init__(self, steps: tuple[int, int] | None, folder: pathlib.Path):
    self._steps, self._folder, self._tracing = steps, folder, False

  def __enter__(self) -> "Profile":
    return self

  def __exit__(self, *_) -> None:
    self._stop()

  def at(self, step: int) -> None:
    """`step` is about to start."""
    if self._steps and step == self._steps[0]:
      jax.profiler.start_trace(self._folder)
      self._tracing = True
    if self._steps and step == self._steps[1]:
      self._stop()

  def _stop(self) -> None:
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()
