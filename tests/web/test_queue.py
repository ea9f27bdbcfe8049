"""The queue: several jobs, cancel, retry, what outlives the server and the process that samples."""

import json
import time

import pytest

from emv3_jax.errors import InputError
from emv3_jax.jobs import manifest
from emv3_jax.jobs.report import read_report
from emv3_jax.web import sampling_process
from tests.web.conftest import ORIGIN, opened


def states(client):
  return {job.name: job.state for job in client.page.jobs}


def ready(client):
  client.wait(lambda status: status["sampler"]["form"])


def idle(status):
  return not status["queue"] and status["sampler"]["state"] == "ready"


def test_clips_are_made_in_order_and_come_into_report_and_history(client):
  ready(client)
  uploads = client.inputs()
  names = [client.clip(prompt, uploads, seed=seed).json()["name"] for seed, prompt in enumerate(("a", "fail", "b"))]
  client.wait(idle)
  assert states(client) == dict(zip(names, ("done", "failed", "done"), strict=True))
  entries = read_report(client.page.folder.path / "report.jsonl")
  assert [(entry.line, entry.name, entry.status) for entry in entries] == [
      (1, names[0], "done"), (2, names[1], "failed"), (3, names[2], "done")]
  history = {clip["name"]: clip for clip in client.get("/api/history").json()}
  assert history[names[1]]["reason"] == "no such voice" and not history[names[1]]["video"]
  assert history[names[2]]["seed"] == 2 and history[names[2]]["width"] == 384
  assert history[names[2]]["uploads"][0]["id"] == uploads["portrait"]
  video = client.get(f"/api/clips/{names[0]}/video", headers={"range": "bytes=0-4"})
  assert video.status_code == 206 and video.content == b"video"
  jobs = manifest.read_manifest(client.page.folder.path / "manifest.jsonl")  # what batches read
  assert [(job.line, job.name, job.fault) for job in jobs] == [(i, name, "") for i, name in enumerate(names, 1)]
  assert jobs[0].to_make.image == str(client.page.folder.path / f"uploads/{uploads['portrait']}.png")


def test_a_first_clip_needs_consent(client):
  ready(client)
  uploads = client.inputs()
  answer = client.clip("a", uploads, consent=False)
  assert answer.status_code == 422 and "agree" in answer.json()["error"] and not states(client)
  assert client.clip("a", uploads).status_code == 200
  assert client.clip("a", uploads, consent=False).status_code == 200  # it was given


@pytest.mark.parametrize("change, words", [
    ({"task": "none"}, "no task"), ({"uploads": {}}, "needs"), ({"uploads": {"voice": "../x"}}, "needs image"),
    ({"face_box": "/etc/passwd.npy"}, "face box"), ({"face_box": "1,2,3"}, "face box"), ({"seed": -1}, "seed"),
    ({"seed": True}, "seed"), ({"seconds": 0}, "seconds"), ({"prompt": "x" * 5000}, "prompt"),
    ({"prompt": 7}, "prompt"), ({"settings": {"none": "1"}}, "no setting"), ({"settings": {"a=b": "1"}}, "unknown"),
    ({"checkpoint": "/nowhere"}, "no model folder"), ({"audio": "/etc/passwd"}, "unknown field"),
    ({"settings": {"steps": 8}}, "no text")])
def test_wrong_requests_are_refused_before_they_are_queued(client, change, words):
  ready(client)
  answer = client.clip(**{"prompt": "a", "uploads": {"portrait": "a", "voice": "b"}, **change})
  assert answer.status_code == 422 and words in answer.json()["error"], answer.json()
  assert not states(client)


def test_queued_and_running_jobs_are_cancelled_and_tried_again(client):
  ready(client)
  uploads = client.inputs()
  first, second = (client.clip("slow", uploads).json()["name"] for _ in range(2))
  client.wait(lambda status: status["queue"][0]["step"] > 2)
  assert client.call(f"/api/jobs/{second}/cancel").status_code == 200
  assert states(client) == {first: "running", second: "stopped"}
  assert client.delete(f"/api/clips/{first}", headers=ORIGIN).status_code == 422  # it is being made
  client.call(f"/api/jobs/{first}/cancel")
  client.wait(idle)
  assert states(client) == {first: "stopped", second: "stopped"}
  assert client.call(f"/api/jobs/{first}/cancel").status_code == 404
  client.page.jobs.get(second).request["prompt"] = "a"
  assert client.call(f"/api/jobs/{second}/retry").status_code == 200
  client.wait(idle)
  assert states(client)[second] == "done"
  assert client.call(f"/api/jobs/{second}/retry").status_code == 404


def test_a_clip_that_does_not_end_is_ended_with_its_process(client, monkeypatch):
  monkeypatch.setattr(sampling_process, "CANCEL_SECONDS", 0.1)
  monkeypatch.setattr(sampling_process, "PAUSES", (0.05,))
  ready(client)
  uploads = client.inputs()
  deaf, after = (client.clip(prompt, uploads).json()["name"] for prompt in ("deaf", "a"))
  client.wait(lambda status: status["queue"][0]["step"])
  client.call(f"/api/jobs/{deaf}/cancel")
  client.wait(idle)
  assert states(client) == {deaf: "stopped", after: "done"}


def test_the_page_outlives_its_sampler(client, monkeypatch):
  monkeypatch.setattr(sampling_process, "PAUSES", (0.05,))
  ready(client)
  uploads = client.inputs()
  once, always, after = (client.clip(prompt, uploads).json()["name"] for prompt in ("crash once", "crash", "a"))
  client.wait(idle)
  assert states(client) == {once: "done", always: "lost", after: "done"}
  assert client.page.jobs.get(once).lost == 1
  assert "signal 9" in client.page.jobs.get(always).reason


def test_a_job_of_another_run_is_waited_for(client, monkeypatch):
  monkeypatch.setattr(sampling_process, "LOOK_AGAIN", 2.0)
  ready(client)
  uploads = client.inputs()
  first, second = (client.clip(prompt, uploads).json()["name"] for prompt in ("elsewhere once", "a"))
  client.wait(lambda status: any("process 1 on host" in job["note"] for job in status["queue"]))
  client.wait(idle)
  assert states(client) == {first: "done", second: "done"}


def test_a_full_disk_ends_neither_page_nor_sampler(client, monkeypatch):
  ready(client)
  uploads = client.inputs()
  save = client.page.jobs.save

  def full(job):
    raise InputError("Cannot write: No space left on device.")

  monkeypatch.setattr(client.page.jobs, "save", full)
  assert client.clip("a", uploads).status_code == 422 and not states(client)
  monkeypatch.setattr(client.page.jobs, "save", lambda job: save(job) if job.state == "queued" else full(job))
  first = client.clip("a", uploads).json()["name"]
  client.wait(idle)
  assert "No space left" in client.get("/api/status").json()["sampler"]["message"]
  monkeypatch.setattr(client.page.jobs, "save", save)
  second = client.clip("a", uploads).json()["name"]
  client.wait(idle)
  assert states(client) == {first: "done", second: "done"}


def test_jobs_outlive_the_server(tmp_path):
  with opened(tmp_path / "page") as client:
    ready(client.entered())
    uploads = client.inputs()
    slow, waiting = (client.clip(prompt, uploads).json()["name"] for prompt in ("slow", "a"))
    client.wait(lambda status: status["queue"][0]["step"])
  kept = tmp_path / f"page/queue/{slow}.json"
  values = json.loads(kept.read_text())
  values["request"]["prompt"] = "b"
  values["note"] = "is made by another run"
  kept.write_text(json.dumps(values))
  (tmp_path / "page/queue/damaged.json").write_text("{")
  with opened(tmp_path / "page") as client:
    client.entered().wait(idle)
    assert states(client) == {slow: "done", waiting: "done"}


def test_deleting_leaves_nothing_of_a_clip(client):
  ready(client)
  uploads, others = client.inputs(), client.inputs()
  mixed = {"portrait": uploads["portrait"], "voice": others["voice"]}
  gone, stays = (client.clip("a secret", found).json()["name"] for found in (uploads, mixed))
  client.wait(idle)
  folder = client.page.folder.path
  (folder / f"{gone}.latents.npy").write_bytes(b"latents")
  (folder / f".{gone}.1.claim").write_text("{}")
  assert client.delete(f"/api/clips/{gone}", headers=ORIGIN).status_code == 200
  left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
  assert not [path for path in left if gone in path or uploads["voice"] in path]
  assert f"uploads/{uploads['portrait']}.png" in left and f"{stays}.mp4" in left  # another clip is made of it
  assert [entry.name for entry in read_report(folder / "report.jsonl")] == [stays]
  assert client.delete(f"/api/clips/{stays}", headers=ORIGIN).status_code == 200
  for path in folder.rglob("*"):
    assert not path.is_file() or b"a secret" not in path.read_bytes(), path
  assert client.delete(f"/api/clips/{gone}", headers=ORIGIN).status_code == 404


def test_clips_of_batches_are_in_the_history_and_keep_their_names(client):
  folder = client.page.folder.path
  (folder / "page_00001.mp4").write_bytes(b"video")
  (folder / "page_00001.json").write_text(json.dumps({
      "seed": 7, "frames": 5, "size": {"width": 64, "height": 64}, "request": {"task": "i2v", "prompt": "other"},
      "origins": {"steps": "command line"}, "config": {"name": "tiny", "sampling": {"enlarge": 1, "steps": 3}}}))
  (folder / "notes.json").write_text('{"mine": true}')
  clip, = client.get("/api/history").json()
  assert (clip["name"], clip["seed"], clip["settings"]) == ("page_00001", 7, {"steps": "3"})
  ready(client)
  assert client.clip("a", client.inputs()).json()["name"] == "page_00002"
  assert client.get("/api/clips/notes/report").status_code == 404
  assert client.delete("/api/clips/notes", headers=ORIGIN).status_code == 404 and (folder / "notes.json").exists()


def test_a_status_costs_nothing_where_nothing_changes(client, monkeypatch):
  ready(client)
  time.sleep(0.1)
  first = client.page.status()
  monkeypatch.setattr(json, "dumps", None)
  assert client.page.status() is first
