"""Collectives of a compiled program, parsed from its HLO text and from the compiler's log."""

from collections.abc import Iterable
import dataclasses
import math
import re

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"= (.*?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"(pred|[a-z]+\d+)\[([\d,]*)\]")
_BITS = re.compile(r"\d+")
_REMATERIALISED = re.compile(
    r'Involuntary full rematerialization(?:.*HLO operation:? %?\S+ = (\w+\[[\d,]*\]))?'
    r'(?:.*op_name="([^"]*)")?')


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective instruction: kind, and dtypes, shapes and bytes of its results on one device."""

  kind: str
  dtypes: tuple[str, ...]
  shapes: tuple[tuple[int, ...], ...]
  bytes: int


def collectives(text: str) -> list[Collective]:
  """Returns all collectives of a compiled program's text; those in the body of a loop are counted once."""
  found = []
  for line in text.splitlines():
    match = _COLLECTIVE.search(line)
    if match is None:
      continue
    arrays = [(dtype, tuple(int(size) for size in sizes.split(",") if size))
              for dtype, sizes in _ARRAY.findall(match[1])]
    if match[3]:  # results of a start: operands, results and, for some kinds, two counters
      if match[2] == "collective-permute":
        arrays = arrays[:2]
      arrays = arrays[len(arrays) // 2:]
    size = sum(_item_bytes(dtype) * math.prod(shape) for dtype, shape in arrays)
    dtypes, shapes = zip(*arrays, strict=True)
    found.append(Collective(match[2], dtypes, shapes, size))
  return found


def totals(found: Iterable[Collective]) -> dict[str, dict[str, float]]:
  """Sums collectives by kind; returns {kind: {"count": number, "mib": MiB}}."""
  summed = {}
  for collective in found:
    total = summed.setdefault(collective.kind, {"count": 0, "mib": 0.0})
    total["count"] += 1
    total["mib"] += collective.bytes / 2 ** 20
  return {kind: {**total, "mib": round(total["mib"], 2)} for kind, total in summed.items()}


def gathered_stacks(found: Iterable[Collective],
                    stacks: set[tuple[int, ...]]) -> list[tuple[int, ...]]:
  """Returns the shapes of `stacks`, parameters of all layers, that are gathered whole on a device."""
  return sorted({shape for collective in found if collective.kind == "all-gather"
                 for shape in collective.shapes if shape in stacks})


def gathered_gradients(found: Iterable[Collective],
                       shapes: set[tuple[int, ...]]) -> list[tuple[int, ...]]:
  """Returns those of `shapes`, of parameters or of one layer, that are gathered whole in float32.

  If products are computed in bfloat16, parameters are gathered in bfloat16; arrays gathered in float32 are
  gradients, or weights that were not cast.
  """
  squeezed = lambda shape: tuple(size for size in shape if size > 1)
  wanted = set(map(squeezed, shapes))
  return sorted({shape for collective in found if collective.kind == "all-gather"
                 for dtype, shape in zip(collective.dtypes, collective.shapes, strict=True)
                 if dtype == "f32" and squeezed(shape) in wanted})


def rematerialised(log: Iterable[str]) -> list[str]:
  """Returns tensors that the partitioner could reshard only by replicating them on every device."""
  return [f"{match[1] or 'a tensor'} in {match[2] or 'an unnamed operation'}"
          for match in map(_REMATERIALISED.search, log) if match]


def _item_bytes(dtype: str) -> int:
  bits = _BITS.search(dtype)
  return max(1, int(bits[0]) // 8) if bits else 1
