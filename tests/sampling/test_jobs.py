"""Manifests: done jobs are skipped, a failing one stays alone, changed ones run again."""

import json

import pytest

from emv3_jax.errors import InputError
from emv3_jax.sampling import jobs


def write_manifest(path, lines) -> None:
  path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line)
                            for line in lines))


def test_done_jobs_are_skipped_and_failing_ones_stay_alone(model, files, tmp_path):
  good = {"name": "good", "audio": str(files["audio"]), "image": str(files["image"]),
          "face_box": "none", "prompt": "hello"}
  manifest = tmp_path / "jobs.jsonl"
  write_manifest(manifest, [
      {**good, "name": "absent", "audio": "absent.wav"}, good, "{broken",
      {**good, "name": "typo", "promt": "x"}, "", {**good, "name": "other", "seed": 3}])
  outcome = jobs.run_jobs(model, jobs.read_manifest(manifest), tmp_path / "out")
  assert outcome == jobs.Outcome(done=2, skipped=0, failed=3)
  made = {path.name for path in (tmp_path / "out").iterdir()}
  assert made == {"good.mp4", "good.json", "other.mp4", "other.json"}
  before = (tmp_path / "out/good.mp4").stat().st_mtime_ns

  (tmp_path / "out/other.json").unlink()  # as if it had been interrupted
  outcome = jobs.run_jobs(model, jobs.read_manifest(manifest), tmp_path / "out")
  assert outcome == jobs.Outcome(done=1, skipped=1, failed=3)
  assert (tmp_path / "out/good.mp4").stat().st_mtime_ns == before

  write_manifest(manifest, [{**good, "seed": 11}])
  outcome = jobs.run_jobs(model, jobs.read_manifest(manifest), tmp_path / "out")
  assert outcome == jobs.Outcome(done=1, skipped=0, failed=0)
  assert json.loads((tmp_path / "out/good.json").read_text())["seed"] == 11


def test_paths_are_relative_to_the_manifest(tmp_path):
  write_manifest(tmp_path / "jobs.jsonl", [
      {"audio": "a/voice.wav", "image": "/absolute.png", "face_box": "box.npy"}])
  (job,) = jobs.read_manifest(tmp_path / "jobs.jsonl")
  assert job.name == "0001_voice"
  assert job.request.audio == str(tmp_path / "a/voice.wav")
  assert job.request.image == "/absolute.png"
  assert job.request.face_box == str(tmp_path / "box.npy")


@pytest.mark.parametrize("line, said", [
    ("[1]", "expected a JSON object"),
    ("{", "not JSON"),
    ('{"audio": "a.wav", "promt": "x"}', "did you mean 'prompt'"),
    ('{"prompt": "x"}', "audio is missing"),
    ('{"audio": "a.wav", "seed": "7"}', "expected int"),
    ('{"audio": "a.wav", "name": "../up"}', "not a plain file name"),
])
def test_a_line_that_is_no_job_says_why(tmp_path, line, said):
  write_manifest(tmp_path / "jobs.jsonl", [line])
  (job,) = jobs.read_manifest(tmp_path / "jobs.jsonl")
  assert job.request is None and said in job.fault


def test_unusable_manifests(tmp_path):
  with pytest.raises(InputError, match="cannot be read"):
    jobs.read_manifest(tmp_path / "absent.jsonl")
  write_manifest(tmp_path / "empty.jsonl", [""])
  with pytest.raises(InputError, match="no jobs"):
    jobs.read_manifest(tmp_path / "empty.jsonl")
  write_manifest(tmp_path / "twice.jsonl", [{"name": "x", "audio": "a"}] * 2)
  with pytest.raises(InputError, match="lines 1 and 2"):
    jobs.read_manifest(tmp_path / "twice.jsonl")
