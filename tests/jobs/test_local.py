"""The engine in one process: order, failures, claims, stops, reports; with a maker that stands in for sampling."""

import json
import threading
import time

import pytest

from emv3_jax.errors import InputError, Stopped
from emv3_jax.jobs import claims, local, report
from emv3_jax.jobs.claims import Claims
from emv3_jax.jobs.order import Queue
from emv3_jax.jobs.report import Entry, Outcome, Report, merge, read_report
from emv3_jax.jobs.work import Options
from tests.jobs.stub import Job, Stub, digests, jobs


def run(folder, todo, **options) -> Outcome:
  folder.mkdir(exist_ok=True)
  return local.run(Stub(folder), todo, folder, **options)


def makes(folder) -> list[str]:
  return (folder / "makes.log").read_text().split()


def test_results_do_not_depend_on_the_order(tmp_path):
  todo = jobs(6)
  assert run(tmp_path / "a", todo) == Outcome(done=6)
  by_group = run(tmp_path / "b", todo, groups=lambda left: {job.line: job.line % 2 for job in left})
  assert by_group == Outcome(done=6) and digests(tmp_path / "a") == digests(tmp_path / "b")
  assert makes(tmp_path / "a") == [job.name for job in todo]
  assert makes(tmp_path / "b") == [f"clip00{line}" for line in (1, 3, 5, 2, 4, 6)]
  before = [(entry.name, entry.frames_sha256) for entry in read_report(tmp_path / "a/report.jsonl")]
  assert run(tmp_path / "a", todo) == Outcome(skipped=6)
  assert [(entry.name, entry.frames_sha256) for entry in read_report(tmp_path / "a/report.jsonl")] == before


def test_failures_stay_alone_and_are_tried_again_as_often_as_asked(tmp_path):
  todo = [Job(1, "input", fails="input"), Job(2, "error", fails="error"), Job(3, "once", fails="once"), Job(4, "good"),
          Job(5, "fault", fault="no audio")]
  assert run(tmp_path / "a", todo) == Outcome(done=1, failed=4)
  assert run(tmp_path / "b", todo, options=Options(retries=2)) == Outcome(done=2, failed=3)
  told = {entry.name: entry for entry in read_report(tmp_path / "b/report.jsonl")}
  assert {name: entry.attempts for name, entry in told.items()} == {
      "input": 1, "error": 3, "once": 2, "good": 1, "fault": 0}
  assert told["input"].reason == "no such voice" and "traceback" not in told["input"].traceback
  assert "Input/output error" in told["error"].reason and "in make" in told["error"].traceback
  summary = json.loads((tmp_path / "b/report.jsonl").read_text().splitlines()[-1])["summary"]
  assert (summary["done"], summary["failed"], summary["lost"]) == (2, 3, 0)


def test_a_job_waits_for_what_it_reads(tmp_path):
  todo = [Job(1, "a"), Job(2, "b", reads="a"), Job(3, "c")]
  groups = lambda left: {1: "x", 2: "y", 3: "y"}
  assert run(tmp_path / "a", todo, after={2: {1}}, groups=groups) == Outcome(done=3)
  assert makes(tmp_path / "a") == ["a", "c", "b"]


def test_a_job_after_one_that_is_made_again_is_looked_at_after_it(tmp_path, monkeypatch):
  """What it reads may have changed."""
  todo, after = [Job(1, "a"), Job(2, "b", reads="a")], {2: {1}}
  run(tmp_path, todo, after=after)
  looked, look = [], Stub.reason_to_make
  monkeypatch.setattr(Stub, "reason_to_make", lambda stub, job: looked.append(job.name) or look(stub, job))
  assert run(tmp_path, [Job(1, "a", seed=5), todo[1]], after=after) == Outcome(done=1, skipped=1)
  assert looked == ["a", "a", "b"]


def test_jobs_of_another_run_are_left_to_it_and_waited_for(tmp_path):
  theirs = Claims(tmp_path).take("clip002")
  told = []

  def finish():
    while "clip003" not in digests(tmp_path):
      time.sleep(0.01)
    told.extend(makes(tmp_path))
    with theirs:
      Stub(tmp_path).make(jobs(2)[1], iter)

  other = threading.Thread(target=finish)
  other.start()
  outcome = run(tmp_path, jobs(3), options=Options(claim_seconds=0.2))
  other.join()
  assert outcome == Outcome(done=2, skipped=1) and told == ["clip001", "clip003"]
  assert makes(tmp_path).count("clip002") == 1 and not list(tmp_path.glob(".*"))


def test_a_job_that_was_taken_over_is_not_written(tmp_path, monkeypatch):
  """The process slept so long that others took it for dead."""
  maker, told = Stub(tmp_path, steps=3), []

  def asleep(steps, what):
    for step in steps:
      yield step
      if step == 1 and not told:
        (tmp_path / ".clip001.2.claim").touch()
        told.append(what)
      elif told:
        pytest.fail("another step was made")

  def stop(*_):
    raise Stopped("by SIGTERM")

  monkeypatch.setattr(local, "_wait", stop)
  with pytest.raises(Stopped):
    local.run(maker, jobs(1), tmp_path, progress=asleep, options=Options(claim_seconds=0.1))
  assert told == ["job 1 of 1 (clip001)"] and not digests(tmp_path)
  assert [entry.status for entry in read_report(tmp_path / "report.jsonl")] == ["stopped"]


def test_a_claim_that_was_left_after_the_output_is_removed(tmp_path):
  """Its owner was killed between its last file and the end of its claim."""
  run(tmp_path, jobs(1))
  (tmp_path / ".clip001.1.claim").write_text(json.dumps({"where": claims._where(), "pid": 0, "started": "1"}))
  assert run(tmp_path, jobs(1)) == Outcome(skipped=1) and not list(tmp_path.glob(".*"))


def test_a_stop_leaves_nothing_half_written(tmp_path):
  def stopped(steps, what):
    for step in steps:
      if "2 of 3" in what and step == 1:
        raise Stopped("by SIGTERM")
      yield step

  with pytest.raises(Stopped):
    local.run(Stub(tmp_path), jobs(3), tmp_path, progress=stopped)
  assert set(digests(tmp_path)) == {"clip001"} and not list(tmp_path.glob(".*"))
  assert [(entry.status, entry.reason) for entry in read_report(tmp_path / "report.jsonl")] == [
      ("done", ""), ("stopped", "stopped while it was made"), ("stopped", "not begun")]
  assert run(tmp_path, jobs(3)) == Outcome(done=2, skipped=1)


def test_reports_of_shards_are_joined(tmp_path):
  with pytest.raises(InputError, match="has no report of a shard"):
    merge(tmp_path)
  todo = jobs(5)
  for index in (0, 2):
    run(tmp_path, todo[index::3], report=f"report.{index}-of-3.jsonl")
  with pytest.raises(InputError, match="no report of shard 1 of 3"):
    merge(tmp_path)
  run(tmp_path, [todo[1], Job(5, "clip005", fails="input")], report="report.1-of-3.jsonl")
  assert merge(tmp_path) == Outcome(done=4, failed=1)
  assert [entry.line for entry in read_report(tmp_path / "report.jsonl")] == [1, 2, 3, 4, 5]
  (tmp_path / "report.0-of-2.jsonl").write_text("")
  with pytest.raises(InputError, match="of 2 and of 3 shards"):
    merge(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]", '{"line": 1}', '{"line": 1, "name": "a", "status": "good"}', "\xff"])
def test_a_file_of_another_kind_is_not_replaced(tmp_path, content):
  (tmp_path / "report.jsonl").write_text(content, encoding="latin-1")
  with pytest.raises(InputError, match="report.jsonl is no report of a run"):
    run(tmp_path, jobs(1))
  assert not digests(tmp_path)


def test_a_long_run_writes_its_report_meanwhile(tmp_path, monkeypatch):
  monkeypatch.setattr(report, "WRITE_EVERY", 0.0)
  growing = Report(tmp_path / "report.jsonl")
  growing.add(Entry(1, "a", "done"))
  assert len(read_report(tmp_path / "report.jsonl")) == 1
  monkeypatch.setattr(report, "WRITE_EVERY", 60.0)
  growing.add(Entry(2, "b", "done"))
  assert len(read_report(tmp_path / "report.jsonl")) == 1 and growing.outcome() == Outcome(done=2)


def test_a_replica_is_given_jobs_of_its_group():
  queue = Queue(jobs(4), groups={1: "x", 2: "y", 3: "x", 4: "y"})
  assert [queue.take("y").line for _ in range(2)] == [2, 4] and queue.take("y").line == 1
  first = queue.take()
  queue.put_back(first, 0.05)
  assert first.line == 3 and queue.take() is None and len(queue) == 4
  time.sleep(0.06)
  assert queue.take() is first


@pytest.mark.parametrize("options, said", [({"retries": -1}, "--retries is -1"), ({"max_lost": 0}, "--max_lost is 0")])
def test_numbers_that_cannot_be(options, said):
  with pytest.raises(InputError, match=said):
    Options(**options)
