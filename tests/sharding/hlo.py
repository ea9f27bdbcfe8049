"""Collectives of a compiled program, as the partitioner wrote them.

Later passes of the CPU compiler turn bfloat16 collectives into float32 ones and merge some, so the
text straight after partitioning is read.
"""

import dataclasses
import re

import jax
from jax.experimental.compilation_cache import compilation_cache

from tests.compiler import QUICK

_START = re.compile(r"^(?:ENTRY )?%(\S+) .*\{$")
_COLLECTIVE = re.compile(
    r"= \(?(\w+)\[([\d,]*)\].* "
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_SCOPE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  kind: str
  dtype: str
  shape: tuple[int, ...]
  scope: str  # jax name scopes
  body: str  # the computation that it is in: a loop's body, or the entry


def compile_with_collectives(lowered: jax.stages.Lowered, folder):
  """Compiles; returns the program and the list of its collectives.

  A program from a cache that another test has turned on would be read, and nothing dumped.
  """
  jax.config.update("jax_compilation_cache_dir", None)
  compilation_cache.reset_cache()
  compiled = lowered.compile(compiler_options=QUICK | {
      "xla_dump_to": str(folder), "xla_dump_hlo_pass_re": "spmd-partitioning",
      "xla_dump_hlo_as_text": True})
  (path,) = folder.glob("*after_spmd-partitioning*.txt")
  return compiled, parse(path.read_text())


def parse(text: str) -> list[Collective]:
  found, body = [], ""
  for line in text.splitlines():
    if start := _START.match(line):
      body = start[1]
    if match := _COLLECTIVE.search(line):
      scope = _SCOPE.search(line)
      shape = tuple(int(size) for size in match[2].split(",") if size)
      found.append(Collective(match[3], match[1], shape, scope[1] if scope else "", body))
  return found
