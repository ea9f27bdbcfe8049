"""Batches of clips: done jobs are skipped, a failing one stays alone, changed ones run again."""

import dataclasses
import json

from absl import logging
import numpy as np
import pytest

from emv3_jax.errors import InputError, Stopped
from emv3_jax.io import checkpoints, digests
from emv3_jax.jobs import sampler
from emv3_jax.jobs.manifest import read_manifest
from emv3_jax.jobs.report import Outcome, read_report
from emv3_jax.runtime import processes
from emv3_jax.sampling import fingerprint
from emv3_jax.sampling.clip import Clip


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
  outcome = sampler.run_jobs(model, read_manifest(manifest), tmp_path / "out")
  assert outcome == Outcome(done=2, skipped=0, failed=3)
  made = {path.name for path in (tmp_path / "out").iterdir()}
  assert made == {"good.mp4", "good.json", "other.mp4", "other.json", "report.jsonl"}
  before = (tmp_path / "out/good.mp4").stat().st_mtime_ns

  told = read_report(tmp_path / "out/report.jsonl")
  assert [(entry.line, entry.name, entry.status, entry.traceback) for entry in told] == [
      (1, "absent", "failed", ""), (2, "good", "done", ""), (3, "0003", "failed", ""), (4, "typo", "failed", ""),
      (6, "other", "done", "")]
  assert told[0].reason == f"Audio {tmp_path}/absent.wav: no such file."
  made, content = told[1], json.loads((tmp_path / "out/good.json").read_text())["content"]
  assert (made.seed, made.frames_sha256, made.sound_sha256) == (43, content["frames"], content["sound"])
  assert made.device == "8x cpu cpu" and made.host and made.attempts == 1 and made.seconds["transformer"] >= 0

  (tmp_path / "out/other.json").unlink()  # as if it had been interrupted
  outcome = sampler.run_jobs(model, read_manifest(manifest), tmp_path / "out")
  assert outcome == Outcome(done=1, skipped=1, failed=3)
  again = read_report(tmp_path / "out/report.jsonl")
  assert dataclasses.replace(made, status="skipped") == again[1] and again[4].frames_sha256 == told[4].frames_sha256
  assert (tmp_path / "out/good.mp4").stat().st_mtime_ns == before

  write_manifest(manifest, [{**good, "seed": 11}])
  outcome = sampler.run_jobs(model, read_manifest(manifest), tmp_path / "out")
  assert outcome == Outcome(done=1, skipped=0, failed=0)
  assert [entry.status for entry in read_report(tmp_path / "out/report.jsonl")] == ["done"]
  report = json.loads((tmp_path / "out/good.json").read_text())
  assert report["seed"] == 11
  (job,) = read_manifest(manifest)
  assert report["fingerprint"] == fingerprint.fingerprint(model, job.request)
  assert report["networks"]["vae"] == model.digest("vae") and len(report["tokenizer"]) == 64
  video = tmp_path / "out/good.mp4"
  assert report["video"] == {"bytes": video.stat().st_size,
                             "sha256": digests.file_digest_now(video)}


class Manifest:
  """One job, of which nothing but the files is made, and what is logged of it."""

  def __init__(self, model, files, folder, monkeypatch):
    self.model, self.folder, self.told, self.errors = model, folder, [], {}
    self.sampled = []
    self.request = {"name": "clip", "audio": str(files["audio"]), "image": str(files["image"])}
    monkeypatch.setattr(sampler, "stream", self._sample)
    for level in ("info", "error"):
      monkeypatch.setattr(logging, level, lambda text, *values: self.told.append(text % values))

  def _sample(self, model, request, progress):
    self.sampled.append(request.prompt)
    if request.prompt in self.errors:
      raise self.errors[request.prompt]
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    report = {"seed": 1, "config": {"name": "tiny", "sampling": {"enlarge": 1}}, "request": {},
              **fingerprint.provenance(model, request)}
    return Clip(frames=frames, fps=25, sound=(np.zeros((3200, 1), np.float32), 16000),
                latents=np.zeros((2, 2, 2, 16), np.float32), report=report)

  def run(self, *prompts: str, **options) -> Outcome:
    """Runs the one job, or one for each prompt that is named by it."""
    del self.told[:]
    write_manifest(self.folder / "jobs.jsonl", [
        {**self.request, "name": prompt, "prompt": prompt} for prompt in prompts] or [self.request])
    return sampler.run_jobs(self.model, read_manifest(self.folder / "jobs.jsonl"),
                         self.folder / "out", **options)


MADE, SKIPPED, FAILED = Outcome(1, 0, 0), Outcome(0, 1, 0), Outcome(0, 0, 1)


@pytest.fixture
def manifest(model, files, tmp_path, monkeypatch):
  return Manifest(model, files, tmp_path, monkeypatch)


def test_a_job_whose_files_are_not_as_written_is_made_again(manifest):
  video, report = manifest.folder / "out/clip.mp4", manifest.folder / "out/clip.json"
  assert manifest.run() == MADE and manifest.told == ["Line 1 (clip) done."]
  whole = video.read_bytes()
  assert manifest.run() == manifest.run(verify=True) == SKIPPED

  video.write_bytes(whole[:-1])
  assert manifest.run() == MADE
  assert manifest.told[0] == "Line 1 (clip) is made again: clip.mp4 is not as it was written."
  video.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
  assert manifest.run() == SKIPPED  # one byte of the same length shows to --verify alone
  assert manifest.run(verify=True) == MADE
  assert manifest.run(verify=True) == SKIPPED
  video.unlink()
  assert manifest.run() == MADE

  report.write_text(json.dumps({**json.loads(report.read_text()), "video": None}))
  assert manifest.run() == MADE
  assert manifest.run() == SKIPPED


def test_latents_that_are_asked_for_later_make_the_job_again(manifest):
  latents = manifest.folder / "out/clip.latents.npy"
  assert manifest.run() == MADE and not latents.exists()
  assert manifest.run(save_latents=True) == MADE
  assert "there is no clip.latents.npy" in manifest.told[0]
  assert manifest.run(save_latents=True, verify=True) == manifest.run() == SKIPPED
  latents.write_bytes(latents.read_bytes()[:-1])
  assert manifest.run() == SKIPPED
  assert manifest.run(save_latents=True) == MADE
  latents.write_bytes(latents.read_bytes()[:-1] + b"1")
  assert manifest.run(save_latents=True, verify=True) == MADE


def test_a_report_of_version_0_1_is_not_done_and_says_why(manifest):
  assert manifest.run() == MADE
  report = manifest.folder / "out/clip.json"
  content = json.loads(report.read_text())
  del content["fingerprint"]
  report.write_text(json.dumps({**content, "digest": "0" * 64}))
  assert manifest.run() == MADE
  assert manifest.told == ["Line 1 (clip) is made again: clip.json has no fingerprint (version 0.1 "
                           "wrote none).", "Line 1 (clip) done."]


def test_no_report_stands_beside_a_video_that_it_is_not_of(manifest, monkeypatch):
  """A run that was killed between the two files leaves none."""
  assert manifest.run() == MADE
  report = manifest.folder / "out/clip.json"

  def killed(*_, **__):
    assert not report.exists()
    raise KeyboardInterrupt

  manifest.request["seed"] = 5
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(sampler.output.video_files, "write_video", killed)
    manifest.run()
  del manifest.request["seed"]
  assert manifest.run() == MADE
  report.unlink()
  report.mkdir()
  assert manifest.run() == FAILED and "clip.json is a folder" in manifest.told[0]


def test_each_file_is_read_once_and_changed_ones_again(manifest, files, tmp_path, monkeypatch):
  audio = tmp_path / "voice.wav"
  audio.write_bytes(files["audio"].read_bytes())
  manifest.request["audio"] = str(audio)
  assert manifest.run() == MADE
  reads, read = [], digests.file_digest_now
  monkeypatch.setattr(digests, "file_digest_now", lambda path: reads.append(path) or read(path))
  assert manifest.run() == SKIPPED and not reads
  audio.write_bytes(audio.read_bytes() + b"1")
  assert manifest.run() == MADE and reads == [str(audio)]
  audio.unlink()
  assert manifest.run() == FAILED and f"Audio {audio}: no such file" in manifest.told[0]


def test_weights_are_verified_before_the_work(manifest, tmp_path, monkeypatch):
  folder = tmp_path / "model"
  checkpoints.save_component(folder, "vae", {"kernel": np.zeros(4, np.float32)}, config={})
  monkeypatch.setattr(manifest.model, "folder", folder)
  assert manifest.run(verify=True) == MADE
  content = json.loads((folder / "model.json").read_text())
  content["components"]["vae"]["digest"] = "0" * 64
  (folder / "model.json").write_text(json.dumps(content))
  assert manifest.run() == SKIPPED
  with pytest.raises(InputError, match="vae: the weights are not those that were written"):
    manifest.run(verify=True)


@pytest.mark.parametrize("error, said", [
    (ValueError("no such thing\nin detail"), "ValueError: no such thing"), (KeyError("k"), "KeyError: 'k'"),
    (MemoryError(), "MemoryError: the memory of this machine is not enough"),
    (RuntimeError("RESOURCE_EXHAUSTED: 5 bytes"), "--plan shows settings that need less (RESOURCE_EXHAUSTED: 5"),
    (RecursionError(), "RecursionError"), (OSError(5, "Input/output error"), "Input/output error"),
    (UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"), "surrogates not allowed")])
def test_a_job_may_raise_what_it_likes(manifest, error, said):
  manifest.errors["bad"] = error
  assert manifest.run("a", "bad", "b") == Outcome(2, 0, 1)
  assert manifest.told[1].startswith("Line 2 (bad) failed: ") and said in manifest.told[1]
  assert "\n" not in manifest.told[1] and "Traceback" not in str(manifest.told)
  _, entry, _ = read_report(manifest.folder / "out/report.jsonl")
  assert entry.line == 2 and said in entry.reason and "in _sample" in entry.traceback


def test_tracebacks_are_shown_on_request(manifest, monkeypatch):
  told = []
  monkeypatch.setattr(logging, "vlog", lambda level, text, *values: told.append((level, text % values)))
  manifest.errors["bad"] = ValueError("x")
  manifest.run("bad")
  assert any(level == 1 and "in _sample" in text for level, text in told)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stopped])
def test_whoever_stops_a_batch_stops_all_of_it(manifest, error):
  manifest.errors |= {"bad": ValueError("x"), "stop": error("by SIGTERM")}
  with pytest.raises(error):
    manifest.run("bad", "stop", "b")
  assert not (manifest.folder / "out/b.mp4").exists()
  assert [(entry.status, entry.reason) for entry in read_report(manifest.folder / "out/report.jsonl")] == [
      ("failed", "ValueError: x"), ("stopped", "stopped while it was made"), ("stopped", "not begun")]
  assert not list((manifest.folder / "out").glob(".*"))


def test_of_several_processes_none_goes_on_alone(manifest, monkeypatch):
  """What one of them meets the others do not know of; wrong input they agree on."""
  monkeypatch.setattr(processes, "is_distributed", lambda: True)
  monkeypatch.setattr(processes, "any_process", lambda flag: flag)
  manifest.errors |= {"input": InputError("x"), "bad": ValueError("y")}
  with pytest.raises(ValueError, match="y"):
    manifest.run("input", "a", "bad", "b")
  assert "Line 2 (a) done." in manifest.told and not (manifest.folder / "out/b.mp4").exists()


def test_a_clip_that_the_first_process_cannot_write_failed_in_all(manifest, monkeypatch):
  """Here is another process, which writes nothing and hears of it."""
  wrote = []
  monkeypatch.setattr(sampler.output, "write", lambda *_, **__: wrote.append(1))
  monkeypatch.setattr(processes, "any_process", lambda flag: flag or bool(wrote))
  assert manifest.run() == FAILED and "Another process" in manifest.told[-1]


def test_what_comes_in_the_way_meanwhile_is_seen(manifest, monkeypatch):
  """Before it is sampled, also where the first look found nothing."""
  monkeypatch.setattr(sampler, "check_jobs", lambda todo, folder, config: todo)
  (manifest.folder / "out").mkdir()
  (manifest.folder / "out/a.json").write_text("{}")
  assert manifest.run("a", "b") == Outcome(1, 0, 1) and manifest.sampled == ["b"]
  assert (manifest.folder / "out/a.json").read_text() == "{}"
