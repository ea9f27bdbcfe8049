"""Flags and output of `--plan`, the same for sampling and for training."""

import argparse
import sys

from emv3_jax.conditioning.audio import num_frames
from emv3_jax.geometry import sample_frames


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds `--plan` and `--mesh`; `run` also reads `--json`."""
  parser.add_argument("--plan", metavar="TARGET[,TARGET...]",
                      help="compile the config's programs for machines that need not be available, "
                      "report memory, operations and communication, and stop")
  parser.add_argument("--mesh", action="append", default=[], metavar="AXIS=SIZE,...",
                      help="with --plan: a mesh, e.g. data=2,context=4; may be repeated; "
                      "all: the likeliest ones; default: the config's where it has the target's "
                      "devices, else the likeliest one")


def run(config, flags: argparse.Namespace) -> int:
  """Writes a table, or JSON lines, for each target; returns exit code 0, even if a program does not fit.

  Args:
    config: config of sampling or of training.
    flags: flags of `add_flags`, and `json`; of sampling `seconds` too, the length of a clip.

  Raises:
    InputError: as `planner.plan`; all targets are checked before anything is compiled.
  """
  # Imported here: planning imports both sampling and training, which would slow down the start of each.
  from emv3_jax.plan import planner, report, targets

  planned = targets.parse_list(flags.plan)
  seconds = getattr(flags, "seconds", None)  # of sampling
  clip_frames = 0 if seconds is None else sample_frames(max(num_frames(seconds), 1))
  for target in planned:
    targets.check_extra(target)
  show = report.json_lines if flags.json else report.table
  for target in planned:
    sys.stdout.write(show(planner.plan(config, target, flags.mesh, clip_frames=clip_frames)) + "\n")
    sys.stdout.flush()
  return 0
