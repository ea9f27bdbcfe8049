"""Compiles programs for one target and one mesh, in a process of its own.

  python -m emv3_jax.plan.compile_one < request.json

The request holds the target, the mesh, the programs and the config with its kind. For each program one
line with a JSON object is written; an `InputError` is written as {"error": message}.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import math
import os
import re
import sys
import tempfile
import time

import jax

from emv3_jax import sharding
from emv3_jax.errors import InputError
from emv3_jax.plan import hlo, programs, subjects, targets
from emv3_jax.plan.subjects import Config
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling.profile import peak_gib

GIB = 2 ** 30
_NEEDED = re.compile(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)")


@contextlib.contextmanager
def captured_stderr() -> Iterator[list[str]]:
  """Collects what the compilers, which do not use Python's streams, write to stderr."""
  lines: list[str] = []
  sys.stderr.flush()
  kept = os.dup(2)
  with tempfile.TemporaryFile() as file:
    os.dup2(file.fileno(), 2)
    try:
      yield lines
    finally:
      os.dup2(kept, 2)
      os.close(kept)
      file.seek(0)
      lines += file.read().decode(errors="replace").splitlines()


def plan_program(name: str, config: Config, window: programs.Window,
                 target: targets.Target, mesh_config: sharding.MeshConfig) -> dict:
  """Compiles one program; returns its line of the report.

  Raises:
    InputError: the program does not divide over the mesh.
  """
  subject = subjects.of(config)
  trace = (subject.programs | subject.others)[name]
  mesh = targets.compile_only_mesh(target, mesh_config)
  deployment = programs.Deployment(target.platform, mesh, mesh_config)
  start = time.monotonic()
  with captured_stderr() as stderr:
    program = trace(config, window, deployment)
    lowered = program.traced.lower()
    memory, found = _compile(lowered, program)
  busiest = program.flops * program.padding / target.devices
  seconds = busiest / target.chip.peak_flops
  warnings = _warnings(stderr, found, program)
  return {
      "program": name, "target": target.name, "mesh": dataclasses.asdict(mesh_config),
      "chips": target.chips, "capacity_gib": round(target.chip.capacity_gib, 2),
      "fits": memory["peak_gib"] <= target.chip.capacity_gib, **memory,
      "flops": program.flops, "padding": program.padding,
      "seconds_at_peak": round(seconds, 3), "seconds_at_40_percent": round(seconds / 0.4, 3),
      "collectives": hlo.totals(found),
      "compile_seconds": round(time.monotonic() - start, 1),
      "compiler_gib": round(peak_gib(), 2),
      "warnings": warnings,
      "frames": window.frames, "height": window.height, "width": window.width,
  }


def _compile(lowered: jax.stages.Lowered, program: programs.Program):
  """Compiles; returns memory by kind in GiB per device (with `fits` if the compiler refuses), and collectives."""
  parameters = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
                   for leaf in jax.tree.leaves(program.params))
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    peak = needed_bytes(str(error))
    if peak is None:
      raise
    return {**_shares(peak, parameters, parameters), "fits": False}, []
  analysis, text = compiled.memory_analysis(), compiled.as_text()
  if analysis is None or text is None:
    raise RuntimeError("This compiler does not say what a program needs.")
  memory = _shares(analysis.peak_memory_in_bytes, parameters, analysis.argument_size_in_bytes)
  return memory, hlo.collectives(text)


def needed_bytes(message: str) -> float | None:
  """Parses the bytes that a program needs from the TPU compiler's error; returns None for other errors."""
  needed = _NEEDED.search(message)
  if "RESOURCE_EXHAUSTED" not in message or needed is None:
    return None
  return float(needed[1]) * 1024 ** " KMGT".index(needed[2])


def _shares(peak: float, parameters: int, arguments: int) -> dict[str, float]:
  gib = {"peak_gib": peak, "parameters_gib": parameters, "inputs_gib": arguments - parameters,
         "activations_gib": peak - arguments}
  return {name: round(value / GIB, 3) for name, value in gib.items()}


def _warnings(stderr: list[str], found: list[hlo.Collective],
              program: programs.Program) -> list[str]:
  warnings = [f"involuntary full rematerialization of {tensor}"
              for tensor in hlo.rematerialised(stderr)]
  warnings += [f"gathers a whole parameter stack {list(shape)}"
               for shape in hlo.gathered_stacks(found, program.stacks())]
  if program.gathers_narrow:
    warnings += [f"gathers float32 {list(shape)}"
                 for shape in hlo.gathered_gradients(found, program.matrices())]
  return warnings


def main() -> None:
  request = json.load(sys.stdin)
  try:
    config = config_lib.build(subjects.SUBJECTS[request["subject"]].config, request["config"])
    target = targets.parse(request["target"])
    mesh = sharding.MeshConfig(**request["mesh"])
    window = programs.Window(**request["window"])
    for name in request["programs"]:
      line = plan_program(name, config, window, target, mesh)
      sys.stdout.write(json.dumps(line) + "\n")
      sys.stdout.flush()
  except InputError as error:
    sys.stdout.write(json.dumps({"error": str(error)}) + "\n")


if __name__ == "__main__":
  main()
