"""Trains the model.

  emv3-train --config=train_tiny --workdir=runs/tiny
  emv3-train --config=train_sft_480p --workdir=runs/sft --config.data=DATASET --config.mesh.fsdp=16
  emv3-train --config=train_tiny --workdir=runs/tiny --export=MODEL
  emv3-train --config=train_sft_480p --plan=v5e:16x16 --config.train.batch=64

A run goes on from the newest checkpoint in its folder; the same command starts it and resumes it.
SIGTERM to any of its processes, or Ctrl-C, stops it with a checkpoint and exit code 75; so does a
stage whose dataset is not there yet: the commands that make it are printed.
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import re
import sys

from absl import logging
import jax

from emv3_jax.errors import InputError
from emv3_jax.io.paths import refuse_address
from emv3_jax.plan import command as plan
from emv3_jax.plan import utilisation
from emv3_jax.runtime import command_line, processes, program_cache, start_up
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime.command_names import as_called
from emv3_jax.training import loop
from emv3_jax.training.monitor.divergence import Diverged
from emv3_jax.training.monitor.previews import Previews
from emv3_jax.training.run.dataset_commands import commands_for
from emv3_jax.training.run.export import export_newest
from emv3_jax.training.settings import Config
from emv3_jax.training.update.programs import TrainPrograms


def make_parser() -> command_line.Parser:
  parser = command_line.Parser(prog=as_called("emv3-train"), description=as_called(__doc__ or ""))
  parser.add_argument("--config", required=True, help="config file, or name of a shipped config, e.g. train_tiny")
  parser.add_argument("--workdir", help="folder of the run: checkpoints, metrics, previews, model")
  parser.add_argument("--export", nargs="?", const="", metavar="DIR",
                      help="write the average of the weights of the newest checkpoint as a model "
                      "folder (default WORKDIR/model), and stop")
  parser.add_argument("--profile_steps", metavar="A:B",
                      help="write WORKDIR/profile about steps A up to B, for TensorBoard or XProf")
  processes.add_flags(parser)
  plan.add_flags(parser)
  parser.add_argument("--json", action="store_true",
                      help="with --plan: one JSON object a line in place of tables")
  parser.add_argument("--print_config", action="store_true", help="print the config and where each value comes from, and stop")
  return parser


def main(arguments: Sequence[str]) -> int:
  flags, overrides = make_parser().parse(arguments)
  config = config_lib.build(Config, command_line.read_config(flags.config, overrides, Config))
  if flags.print_config:
    command_line.print_config(dataclasses.asdict(config), dataclasses.asdict(Config("")), overrides)
    return 0
  if flags.plan:
    return plan.run(config, flags)
  if flags.mesh or flags.json:
    raise InputError("--mesh and --json go with --plan; to train on a mesh write e.g. "
                     "--config.mesh.fsdp=4.")
  if not flags.workdir:
    raise InputError("--workdir is missing; name the folder of the run.")
  refuse_address(flags.workdir, "Folder of the run")
  refuse_address(flags.export or "", "Model folder")
  profile = profile_steps(flags.profile_steps) if flags.profile_steps else None
  processes.join(flags, stop_at_steps=True)
  program_cache.use(config.program_cache, limit_mib=config.program_cache_mib,
                    required=config.program_cache != Config.program_cache)
  workdir = pathlib.Path(flags.workdir)
  if flags.export is not None:
    export_newest(config, workdir, pathlib.Path(flags.export) if flags.export else None)
    return 0
  programs = processes.run_on_all(lambda: TrainPrograms(config))
  devices = jax.devices()
  throughput = utilisation.throughput_of(config, devices[0].device_kind, len(devices))
  try:
    outcome = loop.train(config, workdir, programs, make_previews=Previews,
                         throughput=throughput, profile=profile)
  except Diverged as error:
    sys.stderr.write(f"{error}\n")
    return 1
  if outcome.missing:
    command = [*as_called("emv3-train").split(), f"--config={flags.config}", f"--workdir={workdir}",
               *(f"--config.{override}" for override in overrides)]
    logging.info("%s", commands_for(outcome.missing, config, workdir, command))
  elif outcome.stopped:
    logging.info("Stopped at step %d of %d; the same command goes on from there.", outcome.step,
                 config.last_step)
  logging.info("Seconds since the start: %s", start_up.describe())
  return command_line.STOPPED if outcome.stopped else 0


def profile_steps(text: str) -> tuple[int, int]:
  first, _, end = text.partition(":")
  are_steps = re.fullmatch(r"\d{1,9}:\d{1,9}", text)
  if not are_steps or int(first) >= int(end):
    raise InputError(f"--profile_steps={text} is no range of steps; write e.g. 10:13.")
  return int(first), int(end)


def run() -> None:
  command_line.run(main)
