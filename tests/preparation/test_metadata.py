"""Clips listed as CSV, as a JSON array or as a folder: the same clips as from JSON lines, the same messages."""

import codecs
import dataclasses
import json

import pytest

from emv3_jax.data.index import SHARDS
from emv3_jax.errors import InputError
from emv3_jax.preparation import __main__ as command
from emv3_jax.preparation.manifest import read_manifest
from tests.preparation.preparing import ARGUMENTS, CONFIG, rows_of

ROWS = [{"id": "talks/a", "video": "talks/a.mp4", "prompt": 'A man says "no", twice,\nand smiles é'},
        {"id": "b", "video": "b.mov", "prompt": "A woman laughs"}]
AS_VIDEOX_FUN = [{"file_path": row["video"], "text": row["prompt"], "type": "video"} for row in ROWS]


def quoted(text: str) -> str:
  return '"' + text.replace('"', '""') + '"'


def csv_of(columns, rows) -> str:
  return "".join(",".join(line) + "\r\n" for line in [
      columns, *([quoted(row["video"]), quoted(row["prompt"]), "video"] for row in rows)])


def clips_of(path, *data_root):
  return [dataclasses.replace(clip, line=0) for clip in read_manifest(path, *data_root)]


@pytest.fixture
def wanted(tmp_path):
  (tmp_path / "clips.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
  return clips_of(tmp_path / "clips.jsonl")


@pytest.mark.parametrize("columns", [("file_path", "text", "type"), ("path", " caption", " type"),
                                     ("video", "prompt", "unknown")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv(tmp_path, wanted, columns, encoding):
  path = tmp_path / "metadata.csv"
  path.write_bytes(csv_of(columns, ROWS).encode(encoding))
  assert clips_of(path) == wanted
  assert [clip.line for clip in read_manifest(path)] == [2, 4], "the caption has a line break"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_arrays(tmp_path, wanted, encoding):
  for rows in (ROWS, AS_VIDEOX_FUN):
    path = tmp_path / "metadata.json"
    path.write_bytes(json.dumps(rows, indent=2, ensure_ascii=False).encode(encoding))
    assert clips_of(path) == wanted
  assert [clip.line for clip in read_manifest(path)] == [1, 2]


def test_names_of_other_programs_in_json_lines(tmp_path, wanted):
  path = tmp_path / "metadata.json"  # some write lines under this name
  path.write_text("".join(f"{json.dumps(row)}\n" for row in AS_VIDEOX_FUN))
  assert clips_of(path) == wanted


def test_a_folder(tmp_path, wanted):
  """Other files, hidden ones and what FFmpeg could read too are passed over."""
  for row in ROWS:
    video = tmp_path / row["video"]
    video.parent.mkdir(exist_ok=True)
    video.touch()
    video.with_suffix(".txt").write_bytes(codecs.BOM_UTF8 + f"{row['prompt']}\n".encode())
  for name in ("notes.txt", ".b.mp4", "b.wav", ".hidden/c.mp4"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  assert clips_of(tmp_path) == [wanted[1], wanted[0]], "by name"
  (tmp_path / "c.mp4").touch()
  (tmp_path / "b.mp4").touch()
  (tmp_path / "talks/a.txt").write_bytes(b"\xff")
  assert [clip.fault for clip in read_manifest(tmp_path)] == [
      *["entries 1, 2 all have id 'b'; give each clip an id of its own"] * 2,
      "caption c.txt is missing beside the video", "caption a.txt is not UTF-8 at byte 1"]


def test_a_data_root(tmp_path):
  (tmp_path / "videos").mkdir()
  path = tmp_path / "metadata.json"
  path.write_text(json.dumps([{**AS_VIDEOX_FUN[0], "face_box": "f.npy"}, {"path": "/b.mp4", "text": "x"}]))
  first, second = read_manifest(path, tmp_path / "videos")
  assert first.video == tmp_path / "videos/talks/a.mp4" and first.face_box == str(tmp_path / "videos/f.npy")
  assert (str(second.video), second.id) == ("/b.mp4", "/b")
  with pytest.raises(InputError, match="Data root .*absent is not a folder"):
    read_manifest(path, tmp_path / "absent")
  with pytest.raises(InputError, match="is a folder, whose videos lie in it; leave --data_root out"):
    read_manifest(tmp_path, tmp_path)


def test_images_are_told_and_skipped(tmp_path, caplog):
  path = tmp_path / "metadata.json"
  path.write_text(json.dumps([{"file_path": "a.png", "text": "x", "type": "image"}, *AS_VIDEOX_FUN,
                              {"file_path": "c.wav", "text": "x", "type": "sound"}]))
  clips = read_manifest(path)
  assert [(clip.line, clip.fault) for clip in clips] == [
      (2, ""), (3, ""), (4, "type is 'sound', expected video or image")]
  assert "metadata.json, skipped: 1; only videos are prepared" in caplog.text
  path.write_text('[{"file_path": "a.png", "text": "x", "type": "image"}]')
  with pytest.raises(InputError, match="has no clips"):
    read_manifest(path)


def test_messages_are_those_of_json_lines(tmp_path, caplog):
  path = tmp_path / "clips.csv"
  path.write_text("id,video,prompt,mouth_box\na,a.mp4,x,\na,b.mp4,,\n\n,c.mp4,a man, smiling,\n,,x,\n"
                  'e,e.mp4,,"1,2,3,4"\n')
  clips = read_manifest(path)
  assert [(clip.line, clip.id, clip.fault) for clip in clips] == [
      (2, "a", "lines 2, 3 all have id 'a'; give each clip an id of its own"),
      (3, "a", "lines 2, 3 all have id 'a'; give each clip an id of its own"),
      (5, "line 5", "has 5 cells, the header 4; a cell with commas or line breaks needs double quotes"),
      (6, "line 6", "id and video missing; wanted id, video and prompt, or id, video and report"), (7, "e", "")]
  assert clips[4].mouth_box == "1,2,3,4" and "Clip e (line 7) has an empty prompt" in caplog.text
  path = tmp_path / "clips.json"
  path.write_text('[{"video": "a.mp4"}, 7, {"video": "b.mp4", "prompt": ""}, {"video": 3, "text": "x"}]')
  assert [clip.fault.partition(";")[0] for clip in read_manifest(path)] == [
      "prompt missing", "is int, expected a JSON object", "", "video is 3, expected a string"]
  assert "Clip b (entry 3) has an empty prompt" in caplog.text


@pytest.mark.parametrize("name, content, said", [
    ("a.csv", b"", "has the columns ''; its first line has to name them"),
    ("a.csv", b"name,text\na,b\n", "has the columns 'name, text'; .*one of them video, file_path, path, file_name"),
    ("a.csv", b'video,text\na,"b\n', "line 2, is not CSV: unexpected end of data"),
    ("a.csv", b"video,text\na,\xff\n", "is not UTF-8 at byte 14"), ("a.csv", b"video,text\n", "has no clips"),
    ("a.json", b'[{"video": "a"}', "is not a JSON array: Expecting ',' delimiter"),
    ("a.json", b"[" * 100_000, "is not a JSON array"), ("a.json", b'["\xff"]', "is not UTF-8 at byte 3"),
    ("a.json", b"[]", "has no clips"), ("a.json", b"", "has no clips")])
def test_manifests_that_cannot_be_read(tmp_path, name, content, said):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(InputError, match=said):
    read_manifest(tmp_path / name)


def test_a_folder_without_videos(tmp_path):
  (tmp_path / "a.txt").touch()
  with pytest.raises(InputError, match="has no videos .*.mp4"):
    read_manifest(tmp_path)


def test_records_have_the_same_bytes(footage, tmp_path):
  """From the command line, with a data root."""
  row = rows_of(footage)[0]
  (tmp_path / "clips.jsonl").write_text(json.dumps({**row, "id": "train_00000"}) + "\n")
  name = row["video"].removeprefix(f"{footage.parent}/")
  (tmp_path / "metadata.json").write_text(json.dumps([
      {"id": "train_00000", "file_path": name, "text": row["prompt"], "face_box": row["face_box"],
       "mouth_box": row.get("mouth_box"), "type": "video"}]))
  arguments = [f"--config={CONFIG}", "--checkpoint=untrained", *ARGUMENTS, "--config.program_cache="]
  for manifest, more in (("clips.jsonl", []), ("metadata.json", [f"--data_root={footage.parent}"])):
    out = tmp_path / manifest.partition(".")[0]
    assert command.main([*arguments, f"--manifest={tmp_path / manifest}", f"--out={out}", *more]) == 0
  one, other = (next((tmp_path / name / SHARDS).glob("*.array_record")) for name in ("clips", "metadata"))
  assert one.read_bytes() == other.read_bytes()
