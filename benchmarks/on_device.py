"""Runs a config's programs on the device that is there, with random numbers: seconds and memory.

  python -m benchmarks.on_device --config=configs/echomimic_v3_preview.py --program=sample_step
  python -m benchmarks.on_device --config=configs/train_sft_480p.py --program=train_step \
      --config.train.batch=1
  python -m benchmarks.on_device --program=attention

The same programs as `--plan` has, on one device. Prints one JSON object: what the compiler planned
and what the allocator saw at its peak, seconds of the first run (which compiles) and of those after
it, and the share of the chip's bfloat16 peak where that is known. `attention` compares the
platform's kernel in bfloat16 with plain float32 attention. One program a process: the allocator
remembers its peak.
"""

from collections.abc import Sequence
import dataclasses
import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from emv3_jax import sharding
from emv3_jax.attention import backends
from emv3_jax.attention.local import attend_blocked
from emv3_jax.errors import InputError
from emv3_jax.plan import programs, subjects, utilisation
from emv3_jax.runtime import command_line
from emv3_jax.runtime import config as config_lib

GIB = 2 ** 30
LENGTHS = ((4096, 4096), (1001, 1001), (4096, 257), (4096, 17))  # of queries and of keys
HEADS, HEAD_DIM = 12, 128


def measure(config: subjects.Config, name: str, window: programs.Window, runs: int) -> dict:
  """Compiles and runs one program of `config`.

  Raises:
    InputError: the config has no such program.
  """
  subject, device = subjects.of(config), jax.devices()[0]
  choices = subject.programs | subject.others
  if name not in choices:
    raise InputError(f"--program={name} is none of a {subject.name} config: {', '.join(choices)}.")
  mesh_config = sharding.MeshConfig()
  mesh = sharding.make_mesh(mesh_config, [device])
  deployment = programs.Deployment(device.platform, mesh, mesh_config)
  program = choices[name](config, window, deployment)
  start = time.perf_counter()
  compiled = program.traced.lower().compile()
  compile_seconds = time.perf_counter() - start
  arguments = random_like(program.traced.args_info)
  seconds = [timed(compiled, arguments, program.traced.args_info) for _ in range(runs + 1)][1:]
  typical = statistics.median(seconds)
  chip = utilisation.chip_of(device.device_kind)
  stats = device.memory_stats() or {}
  return {
      "program": name, "device": device.device_kind, "jax": jax.__version__,
      "frames": window.frames, "height": window.height, "width": window.width,
      "planned_gib": round(compiled.memory_analysis().peak_memory_in_bytes / GIB, 4),
      "peak_gib": round(stats.get("peak_bytes_in_use", 0) / GIB, 2),
      "compile_seconds": round(compile_seconds, 1), "seconds": [round(s, 3) for s in seconds],
      "tflop": round(program.flops / 1e12, 1),
      "tflop_per_second": round(program.flops / typical / 1e12, 1),
      "share_of_peak": round(program.flops / typical / chip.peak_flops, 3) if chip else None}


def random_like(infos):
  """Arrays of the shapes of a program's arguments: normal numbers, integers zero."""
  leaves, tree = jax.tree.flatten(infos)
  draw = jax.jit(lambda key, shape, dtype: 0.02 * jax.random.normal(key, shape, dtype),
                 static_argnums=(1, 2))
  def one(number, info):
    if jnp.issubdtype(info.dtype, jnp.floating):
      return draw(jax.random.key(number), info.shape, info.dtype)
    return jnp.zeros(info.shape, info.dtype)
  return jax.tree.unflatten(tree, [one(number, info) for number, info in enumerate(leaves)])


def timed(compiled: jax.stages.Compiled, arguments, infos) -> float:
  """Seconds of a run; what it takes over is copied beforehand."""
  fresh, named = jax.block_until_ready(jax.tree.map(
      lambda array, info: jnp.copy(array) if info.donated else array, arguments, infos))
  start = time.perf_counter()
  jax.block_until_ready(compiled(*fresh, **named))
  return time.perf_counter() - start


def attention_errors() -> dict:
  """Relative L2 error of the platform's kernel, output and gradient of q, by lengths."""
  backend, found = backends.select("auto"), {}
  for s, m in LENGTHS:
    keys = jax.random.split(jax.random.key(s + m), 4)
    q, k, v, slope = (jax.random.normal(key, (1, length, HEADS, HEAD_DIM), jnp.bfloat16)
                      for key, length in zip(keys, (s, m, m, s), strict=True))
    both = []
    for attend, dtype in ((backend, jnp.bfloat16), (attend_blocked, jnp.float32)):
      wide = [x.astype(dtype) for x in (q, k, v)]
      run = jax.jit(lambda q, k, v, slope, attend=attend: (
          attend(q, k, v), jax.grad(lambda q: jnp.vdot(
              attend(q, k, v).astype(jnp.float32), slope.astype(jnp.float32)))(q)))
      both.append(run(*wide, slope))
    found[f"{s}x{m}"] = [round(float(_relative(a, b)), 5) for a, b in zip(*both, strict=True)]
  return {"program": "attention", "backend": backend.name,
          "device": jax.devices()[0].device_kind, "relative_error": found}


def _relative(found: jax.Array, wanted: jax.Array) -> jax.Array:
  return jnp.linalg.norm((found.astype(jnp.float32) - wanted).ravel()) / jnp.linalg.norm(wanted.ravel())


def main(arguments: Sequence[str]) -> int:
  parser = command_line.Parser(prog="python -m benchmarks.on_device", description=__doc__)
  parser.add_argument("--config", default="configs/echomimic_v3_preview.py")
  parser.add_argument("--program", default="sample_step")
  for name in ("frames", "height", "width"):
    parser.add_argument(f"--{name}", type=int, help="default: that of the config's largest window")
  parser.add_argument("--runs", type=int, default=2)
  flags, overrides = parser.parse(arguments)
  if flags.runs < 1:
    raise InputError(f"--runs={flags.runs}; at least 1.")
  if flags.program == "attention":
    line = attention_errors()
  else:
    values = config_lib.read_config_file(flags.config)
    kind = next(s for s in subjects.SUBJECTS.values() if ("data" in values) == s.trains)
    config_lib.override(values, overrides, kind.config)
    config = config_lib.build(kind.config, values)
    window = kind.window(config)
    window = programs.Window(**{name: getattr(flags, name, None) or value
                                for name, value in dataclasses.asdict(window).items()})
    programs.check_window(window)
    line = measure(config, flags.program, window, flags.runs)
  sys.stdout.write(json.dumps(line) + "\n")
  return 0


if __name__ == "__main__":
  command_line.run(main)
