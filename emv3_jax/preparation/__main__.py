"""Turns video files into records for training: encodes pictures, sound and captions once.

  emv3-prepare --manifest=clips.jsonl --out=DIR --checkpoint=models/preview
  emv3-prepare --manifest=clips.jsonl --out=DIR --config=prepare_tiny
  emv3-prepare --manifest=metadata.json --data_root=VIDEOS --out=DIR --checkpoint=models/preview

Fields of the config are overridden as --config.prepare.frames=81. A run that was stopped goes on where
it was. Exit code 0 only when every clip was used; 1 when some were rejected (DIR/rejected.jsonl says
why; the dataset of the others is complete), 0 then too with --skip_bad; 2 for wrong input; 75
when it was stopped by SIGTERM or Ctrl-C.
"""

from collections.abc import Sequence
import dataclasses
import pathlib

from absl import logging
import ml_collections

from emv3_jax.errors import InputError
from emv3_jax.io.paths import refuse_address
from emv3_jax.jobs import flags as job_flags
from emv3_jax.preparation import ray_shards
from emv3_jax.preparation.manifest import read_manifest
from emv3_jax.preparation.ray_shards import open_model
from emv3_jax.preparation.run import prepare
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.runtime import command_line
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime.command_names import as_called
from emv3_jax.sampling.settings import Config


def make_parser() -> command_line.Parser:
  parser = command_line.Parser(prog=as_called("emv3-prepare"), description=as_called(__doc__ or ""))
  parser.add_argument("--manifest", help="clips, one JSON object a line: id, video, prompt, face_box, "
                      "mouth_box; or id, video, report: a clip that the model made. Or a .json "
                      "with an array of them, a .csv, or a folder of videos with .txt captions")
  parser.add_argument("--data_root", help="folder that paths in the manifest are relative to; default: its own")
  parser.add_argument("--out", help="folder of the dataset")
  parser.add_argument("--config", help="a sampling config, file or shipped name, with or without a group `prepare`; "
                      "default: the networks of the checkpoint")
  parser.add_argument("--checkpoint", help="model folder with the encoders; default: the config's")
  parser.add_argument("--skip_bad", action="store_true",
                      help="exit with 0 although clips were rejected")
  job_flags.add_engine(parser, "--manifest")
  parser.add_argument("--print_config", action="store_true", help="print the config and stop")
  return parser


def read_settings(path: str | None, overrides: Sequence[str]
                  ) -> tuple[ml_collections.ConfigDict, Config | None, PrepareConfig]:
  """The config as given, its networks (None without a config file), and its group `prepare`.

  Raises:
    InputError: no such file, an unknown field, or a value that cannot be.
  """
  fields = [field.name for field in dataclasses.fields(Config)]
  values = config_lib.read_config_file(path, [*fields, "prepare"]) if path else ml_collections.ConfigDict()
  if "prepare" not in values:
    with values.unlocked():
      values.prepare = ml_collections.ConfigDict(dataclasses.asdict(PrepareConfig()))
  config_lib.override(values, overrides, Config)
  networks = {name: value for name, value in values.items() if name != "prepare"}
  settings = config_lib.build(PrepareConfig, values.to_dict()["prepare"], "config.prepare")
  return values, config_lib.build(Config, networks) if path else None, settings


def main(arguments: Sequence[str]) -> int:
  flags, overrides = make_parser().parse(arguments)
  values, config, settings = read_settings(flags.config, overrides)
  if flags.print_config:
    defaults = {**dataclasses.asdict(Config("")), "prepare": dataclasses.asdict(PrepareConfig())}
    command_line.print_config(values.to_dict(), defaults, overrides)
    return 0
  for name in ("manifest", "out"):
    if not getattr(flags, name):
      raise InputError(f"--{name} is missing; see {as_called('emv3-prepare')} --help.")
  refuse_address(flags.out, "Output folder")
  refuse_address(flags.data_root or "", "Data root")
  job_flags.check_engine(flags)
  clips = read_manifest(flags.manifest, flags.data_root or None)
  if flags.engine == "ray":
    index = ray_shards.prepare(config, flags.checkpoint or "", settings, clips, pathlib.Path(flags.out),
                               job_flags.cluster(flags))
  else:
    model = open_model(flags.checkpoint, config)
    index = prepare(model, settings, clips, pathlib.Path(flags.out),
                    lambda shards: command_line.progress(shards, "preparing", "shard"))
  logging.info("Wrote %s: %d windows of %d clips in %d shards, %d rejected.", flags.out,
               index.records, index.clips, len(index.shards), index.rejected)
  return 1 if index.rejected and not flags.skip_bad else 0


def run() -> None:
  command_line.run(main)


if __name__ == "__main__":
  run()
