"""Lines of manifests as people write them, and what is looked at before the first job; nothing is sampled."""

import dataclasses
import json
import os
import pathlib

import pytest

from emv3_jax.errors import InputError
from emv3_jax.jobs.manifest import check_jobs, read_manifest
from emv3_jax.sampling.settings import Config, Request, SamplingConfig

CONFIG = Config("released")


def read(folder, *lines, content: bytes | None = None):
  """The jobs of a manifest in `folder`, one for each line."""
  if content is None:
    content = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()
  (folder / "jobs.jsonl").write_bytes(content)
  return read_manifest(folder / "jobs.jsonl")


def test_paths_are_relative_to_the_manifest(tmp_path):
  (job,) = read(tmp_path, {"audio": "a/voice.wav", "image": "/absolute.png", "face_box": "box.npy"})
  assert job.name == "0001_voice"
  assert job.request.audio == str(tmp_path / "a/voice.wav")
  assert job.request.image == "/absolute.png"
  assert job.request.face_box == str(tmp_path / "box.npy")


@pytest.mark.parametrize("line, said", [
    ("[1]", "expected a JSON object"),
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("9" * 5000, "not JSON"),
    ('{"audio": "a.wav", "promt": "x"}', "did you mean 'prompt'"),
    ('{"prompt": "x"}', "audio is missing"),
    ('{"audio": null}', "audio is missing"),
    ('{"audio": "a.wav", "seed": "7"}', "expected int"),
    ('{"audio": "a.wav", "seed": 3.5}', "expected int"),
    ('{"audio": "a.wav", "seed": NaN}', "seed is nan, no finite number"),
    ('{"audio": "a.wav", "seconds": Infinity}', "seconds is inf, no finite number"),
    ('{"audio": "a.wav", "seconds": 1e999}', "seconds is inf, no finite number"),
    (f'{{"audio": "a.wav", "seconds": {"9" * 400}}}', "it must be at most"),
    (f'{{"audio": "a.wav", "seed": {"[" * 900}{"]" * 900}}}', "expected int"),
    ('{"audio": "a.wav", "seed": -1}', "seed is -1; it must be 0 or more"),
    ('{"audio": "a.wav", "seed": 4294967296}', "seed is 4294967296; it must be at most 4294967295"),
    ('{"audio": "a.wav", "seconds": 0}', "not a length of time; give a number above 0"),
    ('{"audio": "a.wav", "face_box": [1, 2, 3]}', "expected str"),
    ('{"audio": "a.wav", "face_box": [1, 2, 3, 1e999]}', "expected str"),
    ('{"audio": "a.wav", "face_box": [1, 2, 3, true]}', "expected str"),
    ('{"audio": "a.wav", "prompt": "\\ud83d"}', "prompt is '\\ud83d', which has half a character"),
    ('{"audio": "a\\u0000.wav"}', "or a zero byte"),
    ('{"audio": "a.wav", "name": "../up"}', "not a plain file name"),
    ('{"audio": "a.wav", "name": "\\ud83d"}', "not a plain file name"),
    ('{"audio": "S3://bucket/a.wav"}', "Audio S3://bucket/a.wav is an address"),
])
def test_a_line_that_is_no_job_says_why(tmp_path, line, said):
  job, other = read(tmp_path, line, {"audio": "a.wav"})
  assert job.request is None and said in job.fault and len(job.fault) < 320 and "\n" not in job.fault
  assert other.request is not None and not other.fault


def test_what_other_programs_write(tmp_path):
  """Columns with gaps: null for what is not there, whole numbers with a point; boxes as lists."""
  first, second = read(
      tmp_path, {"audio": "a.wav", "name": 7.0, "seed": 3.0, "seconds": 2, "last_image": None, "prompt": None,
                 "face_box": [1, 2.0, 3.5, 4]},
      {"audio": "a.wav", "name": None, "seed": None, "face_box": None, "paste": None, "task": None})
  assert first.name == "7" and second.name == "0002_a"
  assert type(first.request.seed) is int and first.request.seed == 3 and first.request.seconds == 2.0
  assert first.request.face_box == "1,2,3.5,4" and first.request.prompt == ""
  assert (second.request.seed, second.request.face_box, second.request.task) == (None, None, "i2v")


def test_the_documented_manifest_has_every_key(tmp_path):
  text = (pathlib.Path(__file__).parents[2] / "docs/jobs.md").read_text(encoding="utf-8")
  lines = text.split("```json\n")[1].split("\n```")[0].split("\n")
  jobs = read(tmp_path, *lines)
  assert not any(job.fault for job in jobs) and jobs[1].name == "0002_ben_2"
  keys = {field.name for field in dataclasses.fields(Request)} | {"name"}
  assert {key for line in lines for key in json.loads(line)} == keys
  table = text.split("| key |")[1].split("\n\n")[0]
  assert {row.split("`")[1] for row in table.splitlines() if row.startswith("| `")} == keys


LINES = [b'{"audio": "a.wav", "name": "x", "prompt": "\xe5\x8f\xa3"}', b'{"audio": "a.wav", "name": "y"}']


@pytest.mark.parametrize("content", [
    b"\n".join(LINES), b"\r\n".join(LINES) + b"\r\n", b"\xef\xbb\xbf" + b"\n\n \r\n".join(LINES),
    b"\n".join(b"\xef\xbb\xbf" + line for line in LINES),
    b"\r\n".join(LINES).decode().encode("utf-16")],
    ids=["plain", "CRLF", "mark", "joined files", "UTF-16"])
def test_encodings(tmp_path, content):
  x, y = read(tmp_path, content=content)
  assert (x.name, y.name, x.request.prompt) == ("x", "y", "口") and not (x.fault or y.fault)


def test_a_line_ends_at_a_line_feed_only(tmp_path):
  prompts = ["one\u2028two\u2029three", "caf\x85e", "a\x0bb\x0cc\x1cd\x1e"]
  lines = [json.dumps({"audio": "a.wav", "name": str(n), "prompt": prompt}, ensure_ascii=False)
           for n, prompt in enumerate(prompts)]
  jobs = read(tmp_path, *lines)
  assert [job.request.prompt for job in jobs] == prompts and [job.line for job in jobs] == [1, 2, 3]


def test_bytes_that_are_no_text_fail_their_line(tmp_path):
  first, second = read(tmp_path, content=LINES[0].replace(b"\xe5", b"") + b"\n" + LINES[1])
  assert "not UTF-8 at byte 44" in first.fault and not second.fault


@pytest.mark.parametrize("audio, name", [
    ("my voice.wav", "my_voice"), ("voice (1).wav", "voice_1"), ("it's.wav", "it_s"), ("録音 1.wav", "録音_1"),
    ("\U0001f600.wav", ""), ("voice%d.wav", "voice_d"), ("x" * 300 + ".wav", "x" * 80), ("e\u0301.wav", "é"),
    ("录" * 100 + ".wav", "录" * 26), ("..", ""), ("a/b.c.wav", "b.c")])
def test_names_are_made_of_file_names(tmp_path, audio, name):
  (job,) = read(tmp_path, {"audio": audio})
  assert job.name == f"0001_{name}".rstrip("_") and not job.fault


def test_lines_of_one_name_fail_and_no_others(tmp_path):
  jobs = read(tmp_path, *[{"name": name, "audio": "a"} for name in ("x", "y", "x", "x")])
  assert [job.line for job in jobs if job.fault] == [1, 3, 4]
  assert jobs[0].fault == "lines 1, 3, 4 all write 'x'; give each its own name"


def test_unusable_manifests(tmp_path):
  for path in (tmp_path / "absent.jsonl", tmp_path, "/dev/zero"):
    with pytest.raises(InputError, match="cannot be read"):
      read_manifest(path)
  for content, said in ((b"", "no jobs"), (b"\n \n", "no jobs"), (b"\x89PNG\r\n\0\0", "it is not text"),
                        (b"\xff\xfea", "cannot be read")):
    with pytest.raises(InputError, match=said):
      read(tmp_path, content=content)


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """Has files whose names are all that is looked at."""
  for name in ("a.wav", "p.png", "v.mp4"):
    (tmp_path / name).write_bytes(b"x")
  return tmp_path


JOB = {"name": "x", "audio": "a.wav", "image": "p.png"}
LIPSYNC = {"name": "x", "audio": "a.wav", "video": "v.mp4", "task": "lipsync"}


def faults(folder, *lines, out="out", config=CONFIG) -> list[str]:
  return [job.fault for job in check_jobs(read(folder, *lines), folder / out, config)]


@pytest.mark.parametrize("line, said", [
    ({"audio": "absent.wav"}, "Audio {0}/absent.wav: no such file."),
    ({"image": "."}, "Image {0} is a folder; name a file in it."),
    ({"last_image": "p.png"}, "Task i2v does not use last_image"),
    ({"task": "flf2v", "last_image": "pipe"}, "Last image {0}/pipe is a pipe; give a file."),
    ({"face_box": "b.npy"}, "Face box {0}/b.npy: no such file."),
    ({"audio": "a.wav/b"}, "cannot be read: Not a directory."),
    ({"audio": "a" * 300}, "File name too long."),
    ({"task": "i3v"}, "i3v"), ({"paste": False}, "no source to paste"),
    ({"face_box": "9,8,1,2"}, "reversed or empty"), ({"face_box": [-1, 8, 1, 2]}, "outside of any image"),
    ({"face_box": "1,2,3,inf"}, "outside of any image"), ({"face_box": "atuo"}, "a .npy file, auto or none."), ({"name": "x" * 240}, "the name is 12 bytes too long"),
    ({"name": "taken"}, "taken.mp4 is a folder"), ({"name": "fifo"}, "fifo.mp4 is a pipe"),
    ({"name": "full"}, "full.mp4 is a device"), ({"name": "mine"}, "mine.json is in the way: it is not the report")])
def test_all_is_looked_at_before_the_first_job(folder, line, said):
  out = folder / "out"
  (out / "taken.mp4").mkdir(parents=True)
  (out / "full.mp4").symlink_to("/dev/full")
  (out / "mine.json").write_text('{"config": "of something else"}')
  for pipe in (folder / "pipe", out / "fifo.mp4"):
    os.mkfifo(pipe)
  assert faults(folder, JOB) == [""]
  fault, other = faults(folder, {**JOB, "name": "w", **line}, JOB)
  assert said.format(folder) in fault and not other


def test_what_would_not_be_used_is_told_beforehand(folder):
  lipsync = {**LIPSYNC, "name": "y", "face_box": "none"}
  assert "lipsync needs the position of the mouth" in faults(folder, JOB, lipsync)[1]
  assert "a .npy file or auto." in faults(folder, {**lipsync, "face_box": "nose"})[0]
  bad = {**JOB, "negative_prompt": "bad hands"}
  assert faults(folder, bad) == [""]
  several = {**JOB, "negative_prompts": ["bad hands", "blurred"]}
  phased = dataclasses.replace(CONFIG, sampling=SamplingConfig(png="phases"))
  assert faults(folder, several, config=phased) == [""]
  assert "they are for phases" in faults(folder, several)[0]
  assert "half a character" in faults(folder, {**JOB, "negative_prompts": ["a", "\ud800"]}, config=phased)[0]
  assert "negative_prompts is 3" in faults(folder, {**JOB, "negative_prompts": [3]}, config=phased)[0]
  unguided = dataclasses.replace(CONFIG, sampling=SamplingConfig(text_scale=1.0))
  assert "The negative prompt would not be used" in faults(folder, bad, config=unguided)[0]


def test_files_that_may_not_be_read(folder, monkeypatch):
  def refuse(path, *_):
    raise PermissionError(13, "Permission denied", path)

  monkeypatch.setattr("builtins.open", refuse)  # chmod does not stop a superuser
  (job,) = check_jobs(read(folder, JOB), folder / "out", CONFIG)
  assert job.fault == f"Audio {folder}/a.wav cannot be read: Permission denied."


def test_what_an_earlier_line_makes_need_not_be_there(folder):
  chain = {**LIPSYNC, "name": "y", "video": "out/../out/x.mp4"}
  assert faults(folder, JOB, chain) == ["", ""]
  assert "no such file" in faults(folder, chain, JOB)[0]


def test_sources_are_not_written_over_by_any_line(folder):
  out = str(folder)
  assert "v.mp4 is the input" in faults(folder, {**LIPSYNC, "name": "v"}, out=out)[0]
  (folder / "hard.mp4").hardlink_to(folder / "v.mp4")
  assert "hard.mp4 is the input" in faults(folder, {**LIPSYNC, "name": "hard"}, out=out)[0]
  of_another = faults(folder, {**JOB, "name": "v"}, LIPSYNC, out=out)
  assert "v.mp4 is read by line 2 and would be replaced" in of_another[0] and not of_another[1]
  (folder / "v.json").write_text('{"config": {}, "request": {}}')  # v.mp4 was made before, by line 1
  assert faults(folder, {**JOB, "name": "v"}, LIPSYNC, out=out) == ["", ""]


def test_a_folder_that_cannot_be_written(folder):
  with pytest.raises(InputError, match="Output folder .*a.wav cannot be created"):
    check_jobs(read(folder, JOB), folder / "a.wav", CONFIG)
  with pytest.raises(InputError, match="Output folder /proc/self/task is not writable"):
    check_jobs(read(folder, JOB), "/proc/self/task", CONFIG)
