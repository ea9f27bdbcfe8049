"""NaN and Inf in the tensors of a checkpoint, counted while they are converted."""

from collections.abc import Mapping

import numpy as np

BLOCK = 1 << 16  # elements that are checked together; they fit into the CPU cache
LISTED = 3
# Integer type and mask of the exponent by dtype; only NaN and Inf have all its bits set.
EXPONENTS = {"float32": (np.uint32, 0x7f800000), "bfloat16": (np.uint16, 0x7f80),
             "float16": (np.uint16, 0x7c00)}


class NotFinite:
  """Counts of values that are not finite, by the tensors' names in the file."""

  def __init__(self):
    self.in_file: dict[str, tuple[int, int]] = {}  # (NaN, Inf)
    self.by_cast: dict[str, int] = {}  # numbers of the file that became Inf

  def add(self, name: str, tensor: np.ndarray, cast: np.ndarray) -> None:
    """Counts values of a tensor of the file, and of the array that it (or a third of it) was cast to."""
    found = count(tensor)
    if any(found):
      self.in_file[name] = found
    elif cast.dtype != tensor.dtype and any(found := count(cast)):
      self.by_cast[name] = self.by_cast.get(name, 0) + sum(found)

  def lines(self, component: str, dtype: str) -> list[str]:
    """Returns warnings for the user."""
    lines = []
    if self.in_file:
      lines.append(f"warning: {component}: {_tensors(self.in_file)} values that are not finite: "
                   + _listed({name: " and ".join(f"{number:,} {what}" for number, what in zip(
                       found, ("NaN", "Inf"), strict=True) if number)
                       for name, found in self.in_file.items()})
                   + ". The network will give NaN: compare the file with the published one.")
    if self.by_cast:
      lines.append(f"warning: {component}: {_tensors(self.by_cast)} values beyond the range of "
                   f"{dtype}: " + _listed({name: f"{number:,} became Inf"
                                      for name, number in self.by_cast.items()})
                   + ". Give --dtype=bfloat16 or float32.")
    return lines


def count(array: np.ndarray) -> tuple[int, int]:
  """Counts NaN and Inf of either sign."""
  integer, exponent = EXPONENTS[str(array.dtype)]
  flat, nans, infs = array.reshape(-1), 0, 0
  for start in range(0, flat.size, BLOCK):
    block = flat[start:start + BLOCK]
    bits = block.view(integer)
    odd = (bits & exponent) == exponent
    if odd.any():
      infinite = int(np.isinf(block[odd].astype(np.float32)).sum())
      nans, infs = nans + int(odd.sum()) - infinite, infs + infinite
  return nans, infs


def _tensors(found: Mapping) -> str:
  return "1 tensor holds" if len(found) == 1 else f"{len(found)} tensors hold"


def _listed(found: Mapping[str, str]) -> str:
  listed = [f"{name} ({what})" for name, what in sorted(found.items())[:LISTED]]
  return ", ".join(listed) + ", ..." * (len(found) > LISTED)
