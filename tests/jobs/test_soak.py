"""Long runs on a Ray cluster of two nodes under kills; `make soak` writes their figures."""

import dataclasses
import json
import pathlib

import pytest

from emv3_jax.jobs import local
from emv3_jax.jobs.report import Outcome, read_report
from emv3_jax.puppets import world
from tests.jobs import chaos
from tests.jobs.stub import Stub, digest, digests, jobs
from tests.jobs.test_ray import check, ended, needs_ray

pytestmark = [pytest.mark.slow, needs_ray]
TINY = chaos.ROOT / "emv3_jax/assets/tiny"


def told(record_property, figures: chaos.Figures, said: str, folder: pathlib.Path) -> None:
  """Puts the figures of a run into the evidence."""
  found = dataclasses.asdict(figures) | {
      "outcome_of_the_last_driver": dataclasses.asdict(ended(said)),
      "jobs_that_lost_a_worker_in_it": sum(entry.lost > 0 for entry in read_report(folder / "report.jsonl"))}
  for name, value in found.items():
    record_property(name, value)


def test_two_hundred_jobs_survive_thirty_kills(tmp_path, record_property):
  """And the loss of a node and two drivers; the outputs are those of an undisturbed run, each there once."""
  quiet, folder, steps = tmp_path / "local", tmp_path / "ray", 10
  for path in (quiet, folder):
    path.mkdir()
  assert local.run(Stub(quiet, steps), jobs(200), quiet) == Outcome(done=200)
  given = {"folder": str(folder), "jobs": 200, "steps": steps, "seconds": 0.06, "tell_every": 10}
  with chaos.nodes() as nodes:
    figures, said = chaos.torture(
        lambda: chaos.start({**given, "address": nodes.address}), folder, seed=5, every=(1.0, 5.0), kills=40,
        driver_kills=2, remove_node=nodes.remove, progress=lambda: len(digests(folder)) / 200, timeout=1800)
  outcome = ended(said)
  assert outcome.complete and outcome.done + outcome.skipped == 200, said[-3000:]
  assert figures.kills >= 30 and (figures.driver_kills, figures.nodes_removed) == (2, 1)
  check(folder, digests(quiet))
  told(record_property, figures, said, folder)


def test_twelve_clips_survive_kills(tmp_path, record_property):
  """Of the small default, in a process each; frames, sound and files are those of an undisturbed run."""
  lines = [{"audio": str(TINY / "speech.wav"), "image": str(TINY / "portrait.png"), "prompt": "a puppet speaks", "name": f"clip{n}",
            "face_box": "none", "seed": n, "seconds": 0.6 + 0.2 * (n % 2)} for n in range(12)]
  (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))

  def start(folder: str, *flags: str):
    return chaos.command(["run_sample.py", "--config=tiny", f"--manifest={tmp_path}/jobs.jsonl", f"--out={tmp_path / folder}",
                          f"--config.program_cache={tmp_path}/programs", f"--config.prompt_cache={tmp_path}/prompts", *flags])

  quiet = start("local")
  said = quiet.communicate(timeout=1200)[0]
  assert quiet.returncode == 0, said[-3000:]
  folder = tmp_path / "ray"
  with chaos.nodes() as nodes:
    figures, said = chaos.torture(
        lambda: start("ray", "--engine=ray", f"--ray_address={nodes.address}"), folder, seed=3, every=(10.0, 16.0), kills=8,
        driver_kills=1, progress=lambda: len(list(folder.glob("[!.]*.mp4"))) / 12, timeout=1800)
  assert figures.kills >= 4 and figures.driver_kills == 1, f"{figures} {said[-3000:]}"
  want, got = (read_report(tmp_path / name / "report.jsonl") for name in ("local", "ray"))
  shown = lambda entries: [(entry.name, entry.frames_sha256, entry.sound_sha256) for entry in entries]
  assert shown(got) == shown(want) and len({entry.frames_sha256 for entry in got}) == 12
  assert {entry.status for entry in got} <= {"done", "skipped"} and not list(folder.glob(".*"))
  files = lambda name: {path.name: digest(path.read_bytes()) for path in (tmp_path / name).glob("[!.]*.mp4")}
  assert files("ray") == files("local")
  for name, value in dataclasses.asdict(figures).items():
    record_property(name, value)


def test_preparation_survives_kills(tmp_path, record_property):
  """The files of a dataset are byte for byte those of a run in one process."""
  world.write_mp4s(tmp_path / "clips", count=6, frames=5)

  def start(folder: str, *flags: str):
    return chaos.command([
        "-m", "emv3_jax.preparation", f"--manifest={tmp_path}/clips/clips.jsonl", f"--out={tmp_path / folder}",
        "--config=prepare_tiny", "--config.prepare.frames=5", "--config.prepare.shard_clips=1",
        f"--config.program_cache={tmp_path}/programs", *flags])

  quiet = start("local")
  said = quiet.communicate(timeout=1200)[0]
  assert quiet.returncode == 0, said[-3000:]
  folder = tmp_path / "ray/shards"
  with chaos.nodes() as nodes:
    figures, said = chaos.torture(
        lambda: start("ray", "--engine=ray", f"--ray_address={nodes.address}"), folder, seed=4, every=(2.0, 6.0), kills=3,
        driver_kills=1, progress=lambda: len(list(folder.glob("[!.]*.json"))) / 6, timeout=1800)
  assert figures.kills >= 2 and figures.driver_kills == 1, f"{figures} {said[-3000:]}"
  files = lambda name: {str(path.relative_to(tmp_path / name)): path.read_bytes()
                        for path in (tmp_path / name).rglob("*") if path.is_file()}
  assert files("ray") == files("local")
  for name, value in dataclasses.asdict(figures).items():
    record_property(name, value)
