"""Plans: programs compiled for every mesh of a target and ranked, with advice if one does not fit."""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import logging
from jax.sharding import AbstractMesh

from emv3_jax.errors import InputError
from emv3_jax.plan import long_programs, meshes, programs, subjects, targets
from emv3_jax.plan.subjects import Config
from emv3_jax.sampling import settings as sampling_settings
from emv3_jax.sharding import AXES, MeshConfig, check_batch, check_heads, check_positions
from emv3_jax.sharding.pictures import check_split
from emv3_jax.training import settings as training_settings

ROOT = pathlib.Path(__file__).parents[2]
ALL = "all"  # as a mesh: the likeliest ones
NUM_LIKELY = 6
_NUM_TRIES = 4  # alternatives that are compiled to find one that fits

# Flags of a command line, and the config, target and mesh that they select.
Alternative = tuple[str, Config, targets.Target, MeshConfig]


def plan(config: Config, target: targets.Target, mesh_texts: Sequence[str] = (), *,
         names: Sequence[str] = (), clip_frames: int = 0) -> list[dict]:
  """Compiles a config's programs for one target and several meshes.

  Args:
    config: config of sampling or training; its largest window is planned.
    target: machine to compile for.
    mesh_texts: meshes as `meshes.parse` takes them, or `all`; if empty, the config's mesh if it has as
      many devices as the target, else the likeliest mesh.
    names: names of programs of the config's `Subject`; if empty, all except its `others`.
    clip_frames: 4k+1, of a clip that is sampled; a longer one than a window is planned by its groups of windows.

  Returns:
    A line, which can be written as JSON, for each program and mesh. The lines of a program follow each
    other, the best mesh first, and are numbered from 1 as `rank`: programs that fit come before those
    that do not; then they are sorted by whole percents of time, then by memory.
    The line of a program that does not fit has an `advice`. If the VAE's pictures cannot be divided over
    all devices, its lines have a warning.

  Raises:
    InputError: the compiler is not installed, or the mesh does not fit the target or the network.
  """
  targets.check_extra(target)
  subject = subjects.of(config)
  window, names = subject.window(config), names or tuple(subject.programs)
  if isinstance(config, sampling_settings.Config):
    window = long_programs.window_of(config, window, clip_frames)
  programs.check_window(window)
  lines = []
  for mesh in choose_meshes(config, window, target, mesh_texts):
    lines += compile_programs(config, window, target, mesh, names)
  repeated = check_split(target.devices, 1, window.latents[1:])
  for line in lines:
    if repeated and line["program"] in programs.OF_PICTURES:
      line["warnings"] = [*line["warnings"], repeated]
  ranked = []
  for name in names:
    of_program = [line for line in lines if line["program"] == name]
    ranked += _ranked(target, _step(config, window), of_program)
  for line in ranked:
    if not line["fits"]:
      line["advice"] = _advice(config, window, target, line)
  return ranked


def choose_meshes(config: Config, window: programs.Window, target: targets.Target,
                  texts: Sequence[str]) -> list[MeshConfig]:
  """Returns the meshes of `texts`; see `plan`."""
  if not texts and math.prod(config.mesh.sizes) == target.devices:
    return [config.mesh]
  subject, chosen = subjects.of(config), []
  for text in texts or ("",):
    if text in ("", ALL):
      likely = likely_meshes(config, window, target)
      chosen += likely[:NUM_LIKELY if text else 1]
    else:
      mesh = meshes.parse(text, target.devices)
      abstract = AbstractMesh(mesh.sizes, AXES)
      check_heads(abstract, config.model.transformer.num_heads, mesh.attention)
      check_positions(abstract, window.grid)
      if subject.trains:
        check_batch(abstract, subject.rows(config))
      chosen.append(mesh)
  return list(dict.fromkeys(chosen))


def compile_programs(config: Config, window: programs.Window, target: targets.Target,
                     mesh: MeshConfig, names: Sequence[str]) -> Iterator[dict]:
  """Yields the lines of `compile_one`, which runs in a process of its own.

  Raises:
    InputError: raised by `compile_one`.
    RuntimeError: a compiler failed otherwise; the end of its output is in the message.
  """
  logging.info("Compiling %s for %s on mesh %s.", ", ".join(names), target.name,
               meshes.label(mesh))
  request = json.dumps({
      "subject": subjects.of(config).name, "target": target.name,
      "mesh": dataclasses.asdict(mesh), "programs": list(names),
      "window": dataclasses.asdict(window), "config": dataclasses.asdict(config)})
  environment = targets.environment(target)
  environment["PYTHONPATH"] = os.pathsep.join(
      filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
  with tempfile.TemporaryFile() as log, subprocess.Popen(
      [sys.executable, "-m", "emv3_jax.plan.compile_one"], env=environment, text=True,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process:
    assert process.stdin is not None and process.stdout is not None  # both are pipes
    process.stdin.write(request)
    process.stdin.close()
    for text in process.stdout:
      line = json.loads(text)
      if "error" in line:
        raise InputError(line["error"])
      yield line
    if process.wait():
      log.seek(0)
      raise RuntimeError(f"Compiling for {target.name} failed:\n"
                         f"{log.read().decode(errors='replace')[-4000:]}")


def _step(config: Config, window: programs.Window) -> meshes.Step:
  """Returns the sizes of a step, for `meshes`."""
  subject = subjects.of(config)
  return meshes.Step(config.model.transformer, subject.rows(config), window.positions,
                     window.latents[0], subject.trains)


def likely_meshes(config: Config, window: programs.Window,
                  target: targets.Target) -> list[MeshConfig]:
  """Returns `meshes.likely` for a step of the window.

  Raises:
    InputError: no mesh is possible.
  """
  found = meshes.likely(target, _step(config, window))
  if not found:
    raise InputError(f"No mesh of the {target.devices} devices of {target.name} divides a batch of "
                     f"{subjects.of(config).rows(config)} and pictures of "
                     f"{window.height}x{window.width}; choose other numbers.")
  return found


def _ranked(target: targets.Target, step: meshes.Step, lines: Sequence[dict]) -> list[dict]:
  """Sorts and numbers the lines of one program; see `plan`."""
  times = [meshes.seconds(MeshConfig(**line["mesh"]), target, step) for line in lines]
  order = [(not line["fits"], meshes.pace(time, times), line["peak_gib"], number)
            for number, (line, time) in enumerate(zip(lines, times, strict=True))]
  return [{**lines[number], "rank": rank} for rank, (*_, number) in enumerate(sorted(order), 1)]


def _advice(config: Config, window: programs.Window, target: targets.Target, line: dict) -> str:
  """Returns settings, and a mesh or a target, with which the program of `line` fits, found by compiling."""
  excess = line["peak_gib"] - line["capacity_gib"]
  found = [_first_fitting(alternatives, window, line["program"]) for alternatives in (
      _other_settings(config, target, line), _other_machines(config, window, target, line))]
  fitting = ", or ".join(filter(None, found)) or (
      "no alternative that was tried fits; plan for more or larger chips, or a smaller window")
  return f"{excess:.2f} GiB too much; {fitting}"


def _first_fitting(alternatives: Iterator[Alternative], window: programs.Window,
                   program: str) -> str | None:
  """Describes the first of `_NUM_TRIES` alternatives that fits; returns None if none does."""
  try:
    for change, config, target, mesh in itertools.islice(alternatives, _NUM_TRIES):
      (line,) = compile_programs(config, window, target, mesh, [program])
      if line["fits"]:
        return f"{change} takes {line['peak_gib']:.2f} of {line['capacity_gib']:.2f} GiB"
  except InputError:  # unknown to the compiler, or no mesh divides the sizes; larger targets would not help
    pass
  return None


def _other_settings(config: Config, target: targets.Target, line: dict) -> Iterator[Alternative]:
  """Yields alternatives on the same machine and mesh that process less at once."""
  mesh = MeshConfig(**line["mesh"])
  if (isinstance(config, sampling_settings.Config) and line["program"] == "sample_step"
      and config.settings.branches == "batched"):
    sampling = dataclasses.replace(config.sampling, branches="in_turn")
    in_turn = dataclasses.replace(config, sampling=sampling)
    yield "--config.sampling.branches=in_turn", in_turn, target, mesh
  if isinstance(config, training_settings.Config):
    parts = 2 * config.train.accumulate
    if config.train.batch % (parts * mesh.data * mesh.fsdp) == 0:
      train = dataclasses.replace(config.train, accumulate=parts)
      yield (f"--config.train.accumulate={parts}", dataclasses.replace(config, train=train),
             target, mesh)


def _other_machines(config: Config, window: programs.Window, target: targets.Target,
                    line: dict) -> Iterator[Alternative]:
  """Yields other meshes, then larger targets with their likeliest mesh."""
  sizes = MeshConfig(**line["mesh"]).sizes
  others = [mesh for mesh in likely_meshes(config, window, target) if mesh.sizes != sizes]
  for mesh in others[:2]:
    yield f"--mesh={meshes.label(mesh)}", config, target, mesh
  while True:
    target = targets.larger(target)
    mesh = likely_meshes(config, window, target)[0]
    yield f"--plan={target.name} --mesh={meshes.label(mesh)}", config, target, mesh
