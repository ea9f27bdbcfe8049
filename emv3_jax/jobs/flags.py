"""Flags of a batch of jobs on the command lines."""

import argparse
from collections.abc import Sequence
import pathlib

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.io import paths
from emv3_jax.jobs import ray_cluster, report, shards
from emv3_jax.jobs.manifest import Job, dependencies
from emv3_jax.jobs.ray_cluster import ClusterConfig
from emv3_jax.jobs.work import Options

_DEFAULTS = Options()
ENGINES = ("local", "ray")
_OF_RAY = ("replicas", "gpus_per_replica", "processes_per_replica", "ray_address")
_OF_BATCH = ("strict", "shard", "retries", "max_lost", "engine")


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that go with `--manifest`, and `--merge_reports`."""
  parser.add_argument("--strict", action="store_true",
                      help="with --manifest: make nothing where a line or a file that it names cannot be used")
  parser.add_argument("--shard", metavar="I/N", help="with --manifest: make every N-th job, the first is I (from 0)")
  parser.add_argument("--retries", type=int, help="with --manifest: how often a job is tried again after it failed; "
                      f"default: {_DEFAULTS.retries}")
  parser.add_argument("--max_lost", type=int, help="with --manifest: a job whose worker was lost so often fails; "
                      f"default: {_DEFAULTS.max_lost}")
  add_engine(parser, "--manifest")
  parser.add_argument("--merge_reports", action="store_true",
                      help="join the reports of all shards in --out to report.jsonl, and stop")


def add_engine(parser: argparse.ArgumentParser, goes_with: str) -> None:
  """Adds `--engine` and the flags of the engine ray."""
  parser.add_argument("--engine", choices=ENGINES, help=f"with {goes_with}: local (default), in this process; ray, on a "
                      "Ray cluster")
  parser.add_argument("--replicas", type=int, help="with --engine=ray: number of models; default: as many as fit")
  parser.add_argument("--gpus_per_replica", type=int, help="with --engine=ray: GPUs of a model, or of each of its processes; default: 1 where there "
                      "are GPUs, a host's TPU chips where there are TPUs")
  parser.add_argument("--processes_per_replica", type=int, help="with --engine=ray: processes that make a job together, "
                      "e.g. the hosts of a TPU slice; default: 1")
  parser.add_argument("--ray_address", help="with --engine=ray: HOST:PORT of the cluster; default: RAY_ADDRESS, else a "
                      "cluster on this machine that ends with the run")


def check_engine(flags: argparse.Namespace) -> None:
  """Raises InputError for flags of the engine ray without it, for values that cannot be, and if Ray is missing."""
  for name in _OF_RAY:
    if getattr(flags, name) is not None and flags.engine != "ray":
      raise InputError(f"--{name} goes with --engine=ray.")
  cluster(flags)
  if flags.engine == "ray":
    ray_cluster.require()


def cluster(flags: argparse.Namespace) -> ClusterConfig:
  """Returns the cluster that the flags name."""
  processes = 1 if flags.processes_per_replica is None else flags.processes_per_replica
  return ClusterConfig(flags.ray_address or "", flags.replicas, flags.gpus_per_replica, processes)


def check(flags: argparse.Namespace) -> None:
  """Raises InputError for flags of a batch that are given without one, and for values that cannot be."""
  for name in _OF_BATCH:
    if getattr(flags, name) not in (None, False) and not flags.manifest:
      hint = "; a single clip is always looked at before it is made" if name == "strict" else ""
      raise InputError(f"--{name} goes with --manifest{hint}.")
  check_engine(flags)
  if flags.shard is not None:
    shards.parse(flags.shard)
  options(flags)


def options(flags: argparse.Namespace) -> Options:
  """Returns how often jobs are tried."""
  given = {name: getattr(flags, name) for name in ("retries", "max_lost")}
  return Options(**{name: value for name, value in given.items() if value is not None})


def report_of(flags: argparse.Namespace) -> pathlib.Path:
  """Returns the path of the report of the run."""
  paths.refuse_address(flags.out, "Output folder")
  shard = None if flags.shard is None else shards.parse(flags.shard)
  return report.path_of(pathlib.Path(flags.out), shard)


def of_shard(flags: argparse.Namespace, jobs: Sequence[Job], folder: pathlib.Path) -> list[Job]:
  """Returns the jobs of the shard that the flags name; all of them without one."""
  if flags.shard is None:
    return list(jobs)
  found = shards.select(jobs, shards.parse(flags.shard), dependencies(jobs, folder))
  logging.info("Shard %s has %d of %d jobs.", flags.shard, len(found), len(jobs))
  return found


def merge_reports(flags: argparse.Namespace) -> int:
  """Joins the reports of shards; returns the exit code, 1 if an output is missing."""
  if not flags.out:
    raise InputError("--out is missing; name the folder with the reports of the shards.")
  paths.refuse_address(flags.out, "Output folder")
  outcome = report.merge(flags.out)
  logging.info("%s: %s.", pathlib.Path(flags.out) / report.REPORT, outcome)
  return 0 if outcome.complete else 1
