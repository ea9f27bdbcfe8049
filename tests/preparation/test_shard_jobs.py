"""Shards as jobs of an engine: the files of a run in one process, byte for byte."""

import pathlib

import pytest

from emv3_jax.errors import InputError
from emv3_jax.jobs import local
from emv3_jax.jobs.report import Outcome
from emv3_jax.preparation import ray_shards, run
from emv3_jax.preparation.manifest import read_manifest
from emv3_jax.preparation.ray_shards import ShardJob, ShardMaker
from emv3_jax.preparation.settings import PrepareConfig
from tests.preparation.preparing import SMALL, prepare


def files(folder: pathlib.Path) -> dict[str, bytes]:
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made_as_jobs(model, settings, groups, folder, numbers) -> Outcome:
  last = ShardJob(len(groups), groups=groups)
  jobs = [*(ShardJob(number, groups[number]) for number in numbers), last]
  return local.run(ShardMaker(model, settings, folder), jobs, folder / "shards", report="report.jsonl",
                   after={last.line: {job.line for job in jobs[:-1]}})


def test_jobs_write_the_files_of_a_run(model, footage, tmp_path):
  whole, parted = tmp_path / "whole", tmp_path / "parted"
  prepare(model, footage, whole, shard_clips=1, stride=4)
  settings = PrepareConfig(**{**SMALL, "shard_clips": 1, "stride": 4})
  groups = tuple(map(tuple, run.groups_of(read_manifest(footage), settings)))
  assert run.begin(model, settings, groups, parted) == [0, 1, 2]
  assert made_as_jobs(model, settings, groups, parted, [2, 0, 1]) == Outcome(done=4)
  (parted / "shards/report.jsonl").unlink()
  assert files(parted) == files(whole)

  (parted / "shards/00001.json").unlink()
  assert run.begin(model, settings, groups, parted) == [1] and not (parted / "index.json").exists()
  with pytest.raises(InputError, match="Shard 1 in .* is not complete"):
    run.finish(model, None, settings, groups, parted)


def test_a_node_without_the_model_says_so(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  setup = ray_shards.ShardSetup(None, "models/absent", PrepareConfig(**SMALL), str(tmp_path), {}, str(tmp_path))
  assert "models/absent" in setup.fault() and "does not exist" in setup.fault()
  other = ray_shards.dataclasses.replace(setup, current=str(tmp_path / "gone"))
  assert "gone, is missing; run the command in a folder that all nodes share" in other.fault()


def test_weights_of_a_node_are_those_of_the_run(tmp_path):
  digests = {"vae": "0" * 64}
  setup = ray_shards.ShardSetup(None, "tiny", PrepareConfig(**SMALL), str(tmp_path), digests, str(tmp_path.cwd()))
  assert "other weights than on the machine of the run: vae;" in setup.fault()
