"""Jobs on a Ray cluster whose workers, nodes and drivers are killed; a maker stands in for sampling."""

import dataclasses
import json
import os
import pathlib
import signal
import sys
import time

import pytest

from emv3_jax.commands import sample as run_sample
from emv3_jax.errors import InputError
from emv3_jax.jobs import local, ray_cluster, ray_engine
from emv3_jax.jobs.ray_cluster import ClusterConfig, share
from emv3_jax.jobs.report import Outcome, read_report
from tests.jobs import chaos
from tests.jobs.stub import Stub, digests, jobs

needs_ray = pytest.mark.skipif(ray_cluster.importlib.util.find_spec("ray") is None, reason="ray is not installed")


@pytest.fixture(scope="module")
def nodes():
  with chaos.nodes() as found:
    yield found


def undisturbed(folder: pathlib.Path, count: int, steps: int) -> dict[str, str]:
  """Digests of the outputs of a local run."""
  folder.mkdir()
  assert local.run(Stub(folder, steps), jobs(count), folder) == Outcome(done=count)
  return digests(folder)


def ended(said: str) -> Outcome:
  """The outcome that a run printed."""
  return Outcome(**json.loads(next(line for line in said.splitlines() if line.startswith('{"done"'))))


def check(folder: pathlib.Path, want: dict[str, str]) -> None:
  """Each output is there once and is that of an undisturbed run; nothing half-written is left, and no claim."""
  assert digests(folder) == want
  entries = read_report(folder / "report.jsonl")
  assert [entry.name for entry in entries] == sorted(want)
  assert {entry.status for entry in entries} <= {"done", "skipped"}
  assert not list(folder.glob(".*"))


@needs_ray
def test_twenty_jobs_survive_kills(nodes, tmp_path):
  """Of workers, and of the driver."""
  want, folder = undisturbed(tmp_path / "local", 20, steps=2), tmp_path / "ray"
  folder.mkdir()
  given = {"folder": str(folder), "jobs": 20, "steps": 2, "seconds": 0.1, "address": nodes.address}
  figures, said = chaos.torture(lambda: chaos.start(given), folder, seed=1, every=(0.5, 1.0), kills=3, driver_kills=1,
                                progress=lambda: len(digests(folder)) / 20, timeout=240)
  outcome = ended(said)
  assert outcome.complete and outcome.done + outcome.skipped == 20, said
  assert figures.kills == 3 and figures.driver_kills == 1
  check(folder, want)
  assert "worker on" in said or sum(entry.lost for entry in read_report(folder / "report.jsonl")) <= 3


@needs_ray
def test_a_job_that_kills_its_worker_ends_and_the_others_are_made(nodes, tmp_path):
  """Failures of a job are another count; a job waits for the one that it reads; wrong input stays alone."""
  given = {"folder": str(tmp_path), "address": nodes.address, "options": {"max_lost": 2, "retries": 1}, "after": {"4": [3]},
           "lines": [{"line": 1, "name": "a", "fails": "kill"}, {"line": 2, "name": "b", "fails": "once"},
                     {"line": 3, "name": "c"}, {"line": 4, "name": "d", "reads": "c"},
                     {"line": 5, "name": "e", "fails": "input"}]}
  run = chaos.start(given)
  said = run.communicate(timeout=240)[0]
  assert run.returncode == 1 and ended(said) == Outcome(done=3, failed=1, lost=1), said
  told = {entry.name: entry for entry in read_report(tmp_path / "report.jsonl")}
  assert told["a"].status == "lost" and told["a"].lost == 2 and "lost 2 times" in told["a"].reason
  assert told["b"].attempts == 2 and told["b"].lost == 0 and told["e"].reason == "no such voice"
  assert (tmp_path / "makes.log").read_text().split().count("a") == 2


@needs_ray
def test_two_processes_make_a_job_together_and_start_again_when_one_is_killed(nodes, tmp_path):
  """Two of jax.distributed, of which the first writes; what fails in one of them is tried again by both."""
  want, folder = undisturbed(tmp_path / "local", 4, steps=3), tmp_path / "ray"
  folder.mkdir()
  given = {"folder": str(folder), "jobs": 4, "steps": 3, "seconds": 0.3, "address": nodes.address, "processes": 2}
  figures, said = chaos.torture(lambda: chaos.start(given), folder, seed=2, every=(0.1, 0.2), kills=1, driver_kills=0,
                                progress=lambda: len(digests(folder)) / 4, timeout=240)
  assert ended(said).complete and figures.kills == 1, said
  check(folder, want)
  assert sum(entry.lost for entry in read_report(folder / "report.jsonl")) == 1


@needs_ray
def test_a_stopped_run_ends_its_step_and_goes_on(nodes, tmp_path):
  given = {"folder": str(tmp_path), "jobs": 3, "steps": 40, "seconds": 0.05, "address": nodes.address}
  run = chaos.start(given)
  until = time.monotonic() + 120
  while not list(tmp_path.glob(".*.part.bin")):
    assert run.poll() is None and time.monotonic() < until
    time.sleep(0.05)
  run.send_signal(signal.SIGTERM)
  said = run.communicate(timeout=120)[0]
  assert run.returncode == 75, said
  assert not list(tmp_path.glob(".*")) and len(digests(tmp_path)) < 3
  told = [entry.reason for entry in read_report(tmp_path / "report.jsonl") if entry.status == "stopped"]
  assert "stopped while it was made" in told and len(told) + len(digests(tmp_path)) == 3


@needs_ray
def test_a_node_that_cannot_be_used_is_named(nodes, tmp_path):
  run = chaos.start({"folder": str(tmp_path), "jobs": 2, "address": nodes.address, "unfit": "Checkpoint m does not exist."})
  said = run.communicate(timeout=240)[0]
  assert run.returncode == 2 and "Node 127.0.0.1 (" in said and "): Checkpoint m does not exist." in said
  assert not digests(tmp_path) and not list(tmp_path.glob(".*"))


@needs_ray
def test_outputs_that_are_not_seen(nodes, tmp_path):
  """A node whose output folder is another one of the same name makes nothing that counts."""
  run = chaos.start({"folder": str(tmp_path), "jobs": 1, "address": nodes.address, "elsewhere": str(tmp_path / "other")})
  said = run.communicate(timeout=240)[0]
  assert run.returncode == 2 and "says that clip001 is made, and it is not in" in said, said


@needs_ray
def test_places_that_differ():
  from emv3_jax.jobs import ray_replica
  here = {"Python": "3.11.1", "jax": "0.10.2", "ray": "2.60.0"}
  place = ray_replica.Place("gpu7", "10.0.0.7", 1, {**here, "jax": "0.9.1"}, "")
  with pytest.raises(InputError, match=r"Node 10.0.0.7 \(gpu7\) has other versions: jax 0.9.1 \(here 0.10.2\)."):
    ray_replica.check_place(place, here)
  with pytest.raises(InputError, match="gpu7.: no model"):
    ray_replica.check_place(dataclasses.replace(place, versions=here, fault="no model"), here)
  ray_replica.check_place(dataclasses.replace(place, versions=here), here)
  assert ray_replica.versions()["code of emv3_jax"]


def node(alive: bool = True, **resources) -> dict:
  return {"Alive": alive, "Resources": resources, "NodeManagerAddress": "10.0.0.1"}


@pytest.mark.parametrize("nodes, config, options, fit", [
    ([node(CPU=8.0), node(CPU=2.0), node(alive=False, CPU=9.0)], {}, {"num_gpus": 0}, 2),
    ([node(CPU=8.0, GPU=8.0), node(CPU=8.0, GPU=3.0), node(CPU=8.0)], {}, {"num_gpus": 1}, 11),
    ([node(CPU=8.0, GPU=8.0), node(CPU=8.0, GPU=3.0)], {"gpus_per_replica": 4}, {"num_gpus": 4}, 2),
    ([node(CPU=8.0, TPU=4.0), node(CPU=8.0, TPU=4.0)], {}, {"resources": {"TPU": 4}}, 2),
    ([node(CPU=8.0, TPU=4.0)] * 5, {"processes": 2}, {"resources": {"TPU": 4}}, 2),
    ([node(CPU=8.0, GPU=1.0)], {"gpus_per_replica": 2, "replicas": 3}, {"num_gpus": 2}, 0)])
def test_what_a_replica_takes(nodes, config, options, fit):
  found = share(nodes, ClusterConfig(**config))
  assert found.fit == fit and options.items() <= found.options.items()


def test_a_cluster_without_room():
  with pytest.raises(InputError, match="room for a replica .4 GPUs.; the most that one has are 2 GPUs"):
    share([node(CPU=8.0, GPU=2.0)], ClusterConfig(gpus_per_replica=4))


@needs_ray
def test_where_all_is_done_no_cluster_is_looked_for(tmp_path, monkeypatch):
  local.run(Stub(tmp_path), jobs(2), tmp_path)
  monkeypatch.setattr(ray_cluster, "connected", None)
  found = ray_engine.run(None, Stub(tmp_path), jobs(2), tmp_path, cluster=ClusterConfig())
  assert found.outcome() == Outcome(skipped=2)


SAMPLE = ["--config=tiny", "--manifest=m.jsonl", "--out=d"]


@pytest.mark.parametrize("arguments, said", [
    (["--replicas=2"], "--replicas goes with --engine=ray"), (["--ray_address=auto"], "--ray_address goes with"),
    (["--engine=ray", "--replicas=0"], "--replicas is 0"), (["--engine=ray", "--gpus_per_replica=-1"], "is -1; it must"),
    (["--engine=dask"], "invalid choice: 'dask'"),
    (["--engine=ray", "--distributed"], "--engine=ray starts its processes by itself")])
def test_wrong_flags(arguments, said):
  with pytest.raises(InputError, match=said):
    run_sample.main([*SAMPLE, *arguments])


def test_ray_that_is_not_installed(monkeypatch):
  monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(InputError, match=r"pip install 'emv3-jax\[ray\]'"):
    run_sample.main([*SAMPLE, "--engine=ray"])


@pytest.mark.parametrize("address, said", [
    ("ray://h:10001", "run the command on a machine of the cluster"), ("host", "give HOST:PORT"),
    ("127.0.0.1:1", "No Ray cluster answers at 127.0.0.1:1 .Connection refused.")])
@needs_ray
def test_no_such_cluster(address, said, monkeypatch):
  pytest.importorskip("ray")  # which sets variables of its own when it is imported
  monkeypatch.setenv("RAY_ADDRESS", address)
  before = dict(os.environ)
  with pytest.raises(InputError, match=said), ray_cluster.connected(ClusterConfig()):
    pass
  assert dict(os.environ) == before and "ray._private.worker" in sys.modules
