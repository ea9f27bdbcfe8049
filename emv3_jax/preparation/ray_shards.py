"""Preparation on a Ray cluster: the shards of `run.prepare`, made by replicas, with the same bytes."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

import jax

from emv3_jax.conditioning import text as text_lib
from emv3_jax.data import index as index_lib
from emv3_jax.data.index import INDEX, SHARDS, Index
from emv3_jax.errors import InputError
from emv3_jax.jobs import model_folders, ray_engine
from emv3_jax.jobs.ray_cluster import ClusterConfig
from emv3_jax.jobs.work import Progress
from emv3_jax.preparation import run, shards
from emv3_jax.preparation.generated import ENCODERS
from emv3_jax.preparation.manifest import Clip
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.runtime import command_line, program_cache
from emv3_jax.sampling.model import Model, load
from emv3_jax.sampling.settings import Config
from emv3_jax.sharding.mesh import MeshConfig


@dataclasses.dataclass(frozen=True)
class ShardJob:
  """A shard to make, or after all of them the index.

  Attributes:
    number: number of the shard.
    clips: clips of the shard.
    groups: of the index: clips of all shards.
  """

  number: int
  clips: tuple[Clip, ...] = ()
  groups: tuple[tuple[Clip, ...], ...] = ()
  fault: str = ""

  @property
  def line(self) -> int:
    """Number of the shard from 1; the index is the last."""
    return self.number + 1

  @property
  def name(self) -> str:
    """Name of its files."""
    return "index" if self.groups else f"{self.number:05d}"


class ShardMaker:
  """Makes shards and the index; a `jobs.work.Maker`.

  Args:
    model: the encoders.
    settings: settings of the preparation.
    folder: folder of the dataset.
  """

  def __init__(self, model: Model, settings: PrepareConfig, folder: pathlib.Path):
    self._model, self._settings, self._folder = model, settings, folder

  def check(self, job: ShardJob) -> None:
    """The folder was checked when it was opened."""

  def reason_to_make(self, job: ShardJob) -> str | None:
    if job.groups:
      return None if (self._folder / INDEX).is_file() else ""
    return None if shards.read_note(self._folder, job.number, job.clips) is not None else ""

  def make(self, job: ShardJob, progress: Progress) -> None:
    tokenizer = text_lib.Tokenizer.load(self._model.tokenizer_path)
    for _ in progress(range(1)):
      if job.groups:
        run.finish(self._model, tokenizer, self._settings, job.groups, self._folder)
      else:
        shards.make_shard(self._model, tokenizer, self._settings, self._folder, job.number, job.clips)

  def describe(self, job: ShardJob) -> dict[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True)
class ShardSetup:
  """Opens the encoders in the process of a replica.

  Attributes:
    config, checkpoint: see `load`.
    settings: settings of the preparation.
    folder: folder of the dataset, absolute.
    digests: digests of the encoders, which a node's model folder has to have.
    current: current folder of the run; paths of the manifest, the config and the model are relative to it.
  """

  config: Config | None
  checkpoint: str
  settings: PrepareConfig
  folder: str
  digests: dict[str, str]
  current: str

  def fault(self) -> str:
    """Returns what is missing on this machine; devices are not touched."""
    if not os.path.isdir(self.current):
      return f"the current folder of the run, {self.current}, is missing; run the command in a folder that all nodes share."
    os.chdir(self.current)
    return model_folders.fault(self.checkpoint or (self.config.checkpoint if self.config else ""), self.digests)

  def begin(self) -> None:
    os.chdir(self.current)
    command_line.stay_on_cpu_without_accelerator()

  def open(self) -> ShardMaker:
    return ShardMaker(open_model(self.checkpoint, self.config), self.settings, pathlib.Path(self.folder))


def open_model(checkpoint: str | None, config: Config | None) -> Model:
  """Opens the encoders; a program cache chosen by the user must be usable."""
  model = load(checkpoint or "", config, ENCODERS)
  folder = model.config.program_cache
  program_cache.use(folder, limit_mib=model.config.program_cache_mib, required=folder != Config.program_cache)
  return model


def prepare(config: Config | None, checkpoint: str, settings: PrepareConfig, clips: Sequence[Clip], folder: pathlib.Path,
            cluster: ClusterConfig) -> Index:
  """Prepares clips in `folder` as `run.prepare` does, with the replicas of a cluster.

  Raises:
    InputError: see `run.prepare` and `ray_engine.run`; a shard could not be made.
  """
  jax.config.update("jax_platforms", "cpu")  # accelerators are left to the replicas
  here = config and dataclasses.replace(config, mesh=MeshConfig())  # this process has one device
  model, folder = load(checkpoint, here, ENCODERS), folder.absolute()
  groups = tuple(map(tuple, run.groups_of(clips, settings)))
  missing = run.begin(model, settings, groups, folder)
  setup = ShardSetup(config, checkpoint, settings, str(folder), {name: model.digest(name) for name in ENCODERS}, os.getcwd())
  jobs = [ShardJob(number, groups[number]) for number in missing]
  last = ShardJob(len(groups), groups=groups)
  (folder / INDEX).unlink(missing_ok=True)  # written again, as by a local run
  report = ray_engine.run(setup, ShardMaker(model, settings, folder), [*jobs, last], folder / SHARDS, cluster=cluster,
                          after={last.line: {job.line for job in jobs}}, report=None)
  failed = next((entry for entry in report.entries.values() if entry.status in ("failed", "lost")), None)
  if failed is not None:
    raise InputError(failed.reason if failed.name == "index" else f"Shard {failed.name} was not made: {failed.reason}")
  return index_lib.read_index(folder)
