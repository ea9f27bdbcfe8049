"""The commands that make a dataset which a run lacks."""

import importlib
import pathlib
import shlex

from emv3_jax.data import index as index_lib
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime.command_names import as_called, config_name
from emv3_jax.training.input.sources import RequiredDataset
from emv3_jax.training.run.export import components_folder
from emv3_jax.training.settings import Config

SAMPLING_CONFIGS = ("tiny", "echomimic_v3_preview", "echomimic_v3_flash")  # of configs/


def commands_for(missing: RequiredDataset, config: Config, workdir: pathlib.Path, command: list[str]) -> str:
  """The commands that make a dataset that the run lacks.

  Args:
    missing: the dataset.
    config: the run's.
    workdir: its folder.
    command: that the run was started with.
  """
  folder = workdir / f"stage_{missing.stage}"
  model = (folder / "model" if missing.negative
           else components_folder(config) or pathlib.Path(config.checkpoint))
  manifest = folder / "clips.jsonl" if missing.negative else "clips.jsonl"
  prepare = [*as_called("emv3-prepare").split(), *prepare_settings(config),
             f"--checkpoint={model}", f"--manifest={manifest}", f"--out={missing.folder}"]
  if not missing.negative:
    return f"Clips become a dataset (docs/data.md) by\n  {shlex.join(prepare)}"
  sample = [*as_called("emv3-sample").split(), f"--config={config_name(shipped(config) or 'SAMPLING')}",
            f"--checkpoint={model}", f"--manifest={folder / 'jobs.jsonl'}", "--save_latents",
            f"--out={folder / 'clips'}"]
  commands = [[*command, f"--export={model}"], sample, prepare, command]
  return (f"Its negatives are sampled from the average of the weights: write {folder / 'jobs.jsonl'}, "
          f"and then {manifest} with the clips that show the stage's issue (docs/stages.md).\n  "
          + "\n  ".join(map(shlex.join, commands)))


def shipped(config: Config) -> str | None:
  """The shipped sampling config of the network that is trained."""
  for name in SAMPLING_CONFIGS:
    found = importlib.import_module(f"emv3_jax.configs.{name}").get_config()
    if not config_lib.differences(found.model.transformer.to_dict(), config.model.transformer):
      return name
  return None


def prepare_settings(config: Config) -> list[str]:
  """Flags by which windows become those of the data: a shipped config, and what differs from it."""
  flags, settings = [], PrepareConfig()
  if shipped(config) == "tiny":
    flags = [f"--config={config_name('prepare_tiny')}"]
    values = importlib.import_module("emv3_jax.configs.prepare_tiny").get_config().prepare
    settings = config_lib.build(PrepareConfig, values)
  data = pathlib.Path(config.data or ".")
  if (data / index_lib.INDEX).exists():
    buckets = index_lib.read_index(data).buckets
    frames, sizes = buckets[0].frames, tuple((bucket.height, bucket.width) for bucket in buckets)
    flags += [f"--config.prepare.frames={frames}"] * (frames != settings.frames)
    flags += [f"--config.prepare.sizes={sizes}".replace(" ", "")] * (sizes != settings.sizes)
  return flags
