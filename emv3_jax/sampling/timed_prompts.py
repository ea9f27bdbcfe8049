"""Prompts by time: which one a window of a long clip has."""

from collections.abc import Sequence
import json
import math

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS
from emv3_jax.limits import shown

TimedPrompts = tuple[tuple[float, str], ...]
FORM = '[[0, "She smiles."], [12.4, "She nods."]]'


def checked(prompts: Sequence[Sequence], prompt: str = "") -> TimedPrompts:
  """Checks prompts by time.

  Args:
    prompts: pairs of a time in seconds and a prompt; empty for none.
    prompt: the prompt of the whole clip, which they replace.

  Raises:
    InputError: they are no such pairs, do not begin at 0, are out of order, or `prompt` is given too.
  """
  if not prompts:
    return ()
  if prompt:
    raise InputError("prompt and prompts are given; leave one of them out.")
  found = []
  for number, pair in enumerate(prompts):
    if not (isinstance(pair, Sequence) and len(pair) == 2 and type(pair[0]) in (int, float)
            and math.isfinite(pair[0]) and isinstance(pair[1], str)):
      raise InputError(f"prompts[{number}] is {shown(pair)}; wanted pairs of a second and a prompt, e.g. {FORM}.")
    found.append((float(pair[0]), pair[1]))
  if found[0][0] != 0:
    raise InputError(f"prompts begin at {found[0][0]:g} s; the first has to be for second 0.")
  for before, after in zip(found, found[1:], strict=False):
    if after[0] <= before[0]:
      raise InputError(f"prompts are out of order: {after[0]:g} s comes after {before[0]:g} s; sort them by time, "
                       "each time once.")
  return tuple(found)


def parse(text: str) -> TimedPrompts:
  """Reads prompts of a command line, a JSON list.

  Raises:
    InputError: it is no JSON, or `checked` refuses it.
  """
  try:
    values = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise InputError(f"--prompts is not JSON ({error}); write it as --prompts='{FORM}'.") from None
  if not isinstance(values, list) or not values:
    raise InputError(f"--prompts is {shown(values)}; write it as --prompts='{FORM}'.")
  return checked(values)


def warn_of_unused(times: Sequence[float], spans: Sequence[tuple[int, int]]) -> None:
  """Logs which prompts no window has.

  Args:
    times: beginnings of the clip's prompts in seconds, from 0 on.
    spans: (first frame, number of frames) of each window.
  """
  middles = [middle(*span) for span in spans]
  used = {name_at(times, second) for second in middles}
  unused = [f"{begin:g} s" for name, begin in zip(names(len(times)), times, strict=True) if name not in used]
  if unused:
    named = [f"{second:.2f}" for second in middles]
    named = named if len(named) <= 6 else [*named[:5], f"... {named[-1]}"]
    logging.warning("No window has the prompt that begins at %s: a window has the one in force in its middle, here at "
                    "%s s.", ", ".join(unused), ", ".join(named))


def middle(start: int, frames: int) -> float:
  """Returns the second in the middle of the frames start, ..., start + frames - 1."""
  return (start + frames / 2) / FPS


def names(count: int) -> list[str]:
  """Returns the names of a clip's prompts in `Inputs.prompts`, in the order of their times."""
  return ["prompt", *(f"prompt {number}" for number in range(1, count))]


def name_at(times: Sequence[float], second: float) -> str:
  """Returns the name of the prompt that is in force at a time.

  Args:
    times: beginnings of the clip's prompts in seconds, from 0 on.
    second: 0 or more.
  """
  return names(len(times))[max(number for number, begin in enumerate(times) if begin <= second)]
