"""Ranges of the numbers of a configuration, checked where it is made.

A range is (least, most), both allowed. NaN and infinity are in none.
"""

from collections.abc import Mapping
import dataclasses
import math

from emv3_jax.errors import InputError

MANY = 10 ** 9  # of steps, frames, clips and the like
WIDEST = 2 ** 20  # of a layer, in channels
LARGEST = 1e6  # of factors, weights and shifts
ABOVE_0, BELOW_1 = math.nextafter(0.0, 1.0), math.nextafter(1.0, 0.0)
COUNT, AMOUNT, SHARE, CHANNELS = (1, MANY), (0, MANY), (0, 1), (1, WIDEST)
SEED = (0, 2 ** 32 - 1)  # JAX would drop the bits above

Range = tuple[float, float]


def check_ranges(where: str, config, ranges: Mapping[str, Range]) -> None:
  """Refuses numbers out of range in a dataclass; those in its tuples too, and None is none.

  Args:
    where: what the dataclass is called in messages, e.g. `sampling`; may be empty.
    config: the dataclass.
    ranges: by field; fields without one are refused where they are not finite.

  Raises:
    InputError: names the first field that is out of range, what it is and what was wanted.
  """
  for field in dataclasses.fields(config):
    for number in _numbers(getattr(config, field.name)):
      name = f"{where}{'.' if where[-1:].isalnum() else ' '}{field.name}".strip()
      check(name, number, ranges.get(field.name))


def check(name: str, number: float, wanted: Range | None) -> None:
  """
  Raises:
    InputError: `number` is not finite, or not within `wanted`.
  """
  # A whole number may be too large for the floating point that `isfinite` takes.
  if isinstance(number, float) and not math.isfinite(number):
    raise InputError(f"{name} is {number}; a finite number is needed.")
  if wanted is not None and not wanted[0] <= number <= wanted[1]:
    raise InputError(f"{name} is {shown(number)}; it must be {_told(number, *wanted)}.")


def shown(value, longest: int = 60) -> str:
  """`value` for a message, cut where it is long."""
  try:
    text = repr(value)
  except ValueError:  # Python does not write numbers of more than 4300 digits
    return "a number of thousands of digits"
  return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def _numbers(value) -> list[float]:
  if isinstance(value, tuple):
    return [number for part in value for number in _numbers(part)]
  return [value] if type(value) in (int, float) else []


def _told(number: float, least: float, most: float) -> str:
  if most >= MANY:
    return f"{_short(least)} or more" if number < least else f"at most {_short(most)}"
  start = "above 0, at most" if least == ABOVE_0 else f"from {_short(least)} to"
  return f"{start} below 1" if most == BELOW_1 else f"{start} {_short(most)}"


def _short(number: float) -> str:
  return str(number) if isinstance(number, int) else f"{number:g}"
