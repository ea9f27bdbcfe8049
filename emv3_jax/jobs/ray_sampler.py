"""Clips on a Ray cluster: what is sent to replicas, and how they open the model."""

from collections.abc import Sequence
import dataclasses
import functools
import os
import pathlib

import jax

from emv3_jax.conditioning import face_boxes
from emv3_jax.jobs import model_folders, ray_engine, shapes
from emv3_jax.jobs.manifest import Job, dependencies
from emv3_jax.jobs.ray_cluster import ClusterConfig
from emv3_jax.jobs.report import Outcome
from emv3_jax.jobs.sampler import Sampler, verify_weights
from emv3_jax.runtime import command_line, program_cache
from emv3_jax.sampling import fingerprint
from emv3_jax.sampling.model import UNTRAINED, Model, folder_of, load
from emv3_jax.sampling.settings import VISUAL_INPUTS, Config
from emv3_jax.sharding.mesh import MeshConfig

_FILES = ("tokenizer", "face_detector")  # paths in a config that replicas read


@dataclasses.dataclass(frozen=True)
class SamplerSetup:
  """Opens a model and its sampler in the process of a replica.

  Attributes:
    config, checkpoint, overridden: see `load`; paths are absolute.
    digests: digests of the networks, which a node's model folder has to have.
    folder, save_latents, verify, metrics: see `Sampler`.
  """

  config: Config
  checkpoint: str
  overridden: frozenset[str]
  digests: dict[str, str]
  folder: str
  save_latents: bool = False
  verify: bool = False
  metrics: bool = False

  def fault(self) -> str:
    """Returns what is wrong with the model folder of this machine; devices are not touched."""
    return model_folders.fault(self.checkpoint, self.digests)

  def begin(self) -> None:
    command_line.stay_on_cpu_without_accelerator()

  def open(self) -> Sampler:
    """Opens the model; with `verify` all weights are read.

    Raises:
      InputError: see `load` and `verify_weights`.
    """
    program_cache.use(self.config.program_cache, limit_mib=self.config.program_cache_mib, required=False)
    model = load(self.checkpoint, self.config, overridden=self.overridden)
    if self.verify:
      verify_weights(model)
    return Sampler(model, self.folder, save_latents=self.save_latents, verify=self.verify, metrics=self.metrics)


def open_here(config: Config, checkpoint: str | None, overridden: frozenset[str]) -> Model:
  """Opens the model in the process of the run, on the CPU: accelerators are left to the replicas.

  Raises:
    InputError: see `load`.
  """
  jax.config.update("jax_platforms", "cpu")
  # The fingerprint does not depend on the mesh, and this process has one device.
  return load(_absolute(checkpoint or config.checkpoint), dataclasses.replace(config, mesh=MeshConfig()),
              overridden=overridden)


def run(model: Model, config: Config, checkpoint: str | None, overridden: frozenset[str], jobs: Sequence[Job],
        folder: pathlib.Path, *, cluster: ClusterConfig, save_latents: bool = False, verify: bool = False,
        metrics: bool = False, **options) -> Outcome:
  """Samples the clips of jobs that were checked, on a cluster; see `ray_engine.run`.

  Args:
    model: from `open_here`.
    config, checkpoint, overridden: of the model.
    jobs: from `check_jobs`.
    folder: output folder.
    cluster: the cluster.
    save_latents, verify, metrics: see `Sampler`.
    options: `options` and `report` of `ray_engine.run`.

  Raises:
    InputError: see `ray_engine.run`.
  """
  folder = folder.absolute()
  given = {"save_latents": save_latents, "verify": verify, "metrics": metrics}
  files = {name: os.path.abspath(value) for name in _FILES if (value := getattr(config, name)) and os.path.exists(value)}
  setup = SamplerSetup(dataclasses.replace(config, **files), _absolute(checkpoint or config.checkpoint), overridden,
                       fingerprint.network_digests(model), str(folder), **given)
  jobs = [_with_absolute_paths(job) for job in jobs]
  return ray_engine.run(setup, Sampler(model, folder, **given), jobs, folder, cluster=cluster,
                        after=dependencies(jobs, folder),
                        groups=functools.partial(shapes.of_jobs, config=model.config), **options).outcome()


def _absolute(checkpoint: str) -> str:
  return checkpoint if checkpoint in ("", UNTRAINED) else os.path.abspath(folder_of(checkpoint))


def _with_absolute_paths(job: Job) -> Job:
  if job.request is None:
    return job
  request = job.request
  found = {name: os.path.abspath(value) for name in ("audio", *VISUAL_INPUTS) if (value := getattr(request, name))}
  if face_boxes.is_file(request.face_box or ""):
    found["face_box"] = os.path.abspath(request.face_box or "")
  return dataclasses.replace(job, request=dataclasses.replace(request, **found))
