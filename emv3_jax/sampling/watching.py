"""Latents between the steps of a clip, for previews.

What wraps the steps of sampling (`progress`) may have a method `show`: the loops of all modes give it the latents
after each step.
"""

from typing import Any


def show(steps: Any, latents: Any) -> None:
  """Gives latents to the wrapper of steps, if it wants them.

  Args:
    steps: what `progress` returned.
    latents: float32 [..., f, H8, W8, c] after the step, of one or more clips, on a device or the host. They are
      gone or overwritten once the next step begins: the wrapper copies what it keeps.
  """
  wanted = getattr(steps, "show", None)
  if wanted is not None:
    wanted(latents)
