"""What is written of a clip, in which order; nothing is sampled."""

import json
import pathlib

import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.io.audio_files import read_audio
from emv3_jax.sampling import output
from emv3_jax.sampling.clip import Clip
from tests.io.metadata import metadata_of


def clip(enlarge: int = 1, level: int = 90) -> Clip:
  time = np.arange(3200) / 16000
  return Clip(
      frames=np.full((5, 32, 48, 3), level, np.uint8), fps=25, latents=np.ones((2, 4, 6, 16), np.float32),
      sound=(0.5 * np.sin(2 * np.pi * 300 * time, dtype=np.float32)[:, None], 16000),
      report={"seed": 7, "request": {}, "config": {"name": "tiny", "sampling": {"enlarge": enlarge}}})


def test_what_is_written_beside_each_other(tmp_path):
  video = tmp_path / "clip.mp4"
  output.write(clip(), video, save_latents=True)
  assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "clip.json", "clip.latents.npy"}
  samples, rate = read_audio(video)
  assert rate == 16000 and abs(len(samples) - 3200) <= 1
  wanted, _ = clip().sound
  assert np.corrcoef(samples[:3100, 0], wanted[:3100, 0])[0, 1] > 0.98
  assert metadata_of(video).items() >= {"synthetic": True, "seed": 7, "model": "tiny"}.items()
  report = json.loads((tmp_path / "clip.json").read_text())
  assert report["video"]["bytes"] == video.stat().st_size
  assert report["latents"]["bytes"] == (tmp_path / "clip.latents.npy").stat().st_size


@pytest.mark.parametrize("enlarge", [1, 3])
def test_pictures_are_enlarged_as_the_settings_say(tmp_path, enlarge):
  output.write(clip(enlarge), tmp_path / "clip.mp4")
  size = enlarge * 32, enlarge * 48
  assert video_files.read_video(tmp_path / "clip.mp4").frames.shape == (5, *size, 3)


def test_the_json_comes_last(tmp_path, monkeypatch):
  """So that a process that is killed in between leaves none."""
  written, write_video = [], video_files.write_video

  def note(path, *args, **options):
    assert not (tmp_path / "clip.json").exists()
    written.append(path)
    write_video(path, *args, **options)

  monkeypatch.setattr(video_files, "write_video", note)
  for _ in range(2):
    output.write(clip(), tmp_path / "clip.mp4")
  assert len(written) == 2 and (tmp_path / "clip.json").exists()


def test_latents_of_another_clip_do_not_stay(tmp_path):
  output.write(clip(), tmp_path / "clip.mp4", save_latents=True)
  output.write(clip(level=20), tmp_path / "clip.mp4")
  assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "clip.json"}


REPORT = json.dumps({"fingerprint": "0", "request": {"prompt": "it's \u0431 \\ {"}, "seed": 12, "config": {"a": [1.5, True]}})


@pytest.mark.parametrize("end", [0, 1, 2, 9, 16, 53, 76, 95, 100, len(REPORT) - 1])
def test_what_is_left_of_a_report_gives_way(tmp_path, end, monkeypatch):
  told, video = [], tmp_path / "clip.mp4"
  monkeypatch.setattr(output.logging, "warning", lambda text, *values: told.append(text % values))
  video.write_bytes(b"x")
  (tmp_path / "clip.json").write_text(REPORT[:end])
  output.write(clip(), video)
  assert output.is_report(tmp_path / "clip.json") or json.loads((tmp_path / "clip.json").read_text())["seed"] == 7
  assert told == [f"{tmp_path}/clip.json was empty or truncated; it is written again with its clip."]


@pytest.mark.parametrize("content", ["{}", REPORT[1:], "{// mine\n}", "{'a': 1}", "not JSON", '{"a": 1,}', "[1, 2", "\xff"])
def test_what_is_whole_or_of_another_form_stays_beside_a_video(tmp_path, content):
  (tmp_path / "clip.mp4").write_bytes(b"x")
  (tmp_path / "clip.json").write_text(content, encoding="latin-1")
  with pytest.raises(InputError, match="it is not the report of a clip"):
    output.write(clip(), tmp_path / "clip.mp4")
  assert (tmp_path / "clip.json").read_text(encoding="latin-1") == content


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": 1}', '{"config": {}}', "[" * 100_000])
def test_the_json_of_somebody_else_stays(tmp_path, content):
  (tmp_path / "clip.json").write_text(content)
  with pytest.raises(InputError, match="clip.json is in the way: it is not the report of a clip"):
    output.write(clip(), tmp_path / "clip.mp4")
  assert (tmp_path / "clip.json").read_text() == content and not (tmp_path / "clip.mp4").exists()


def test_reports_of_any_version_give_way(tmp_path):
  for report in ({"config": {}, "request": {}}, {"config": {}, "fingerprint": "0"}):
    (tmp_path / "clip.json").write_text(json.dumps(report))
    assert output.check_video_path(tmp_path / "clip.mp4") == tmp_path / "clip.mp4"


def test_a_clip_is_not_written_over_its_own_source(tmp_path):
  source = tmp_path / "clip.mp4"
  source.write_bytes(b"source")
  made = clip()
  made.report.update(request={"video": str(source), "audio": "a.wav"}, files={"video": "0", "audio": "0"})
  with pytest.raises(InputError, match="clip.mp4 is the input"):
    output.write(made, source)
  assert source.read_bytes() == b"source"


@pytest.mark.parametrize("name, said", [
    ("clip.avi", "does not end in .mp4"), ("x" * 240 + ".mp4", "bytes too long"), ("taken.mp4", "is a folder"),
    ("taken.mp4/../full.mp4", "is a device"), ("GS://bucket/clip.mp4", "is an address"),
    ("\udcff" * 81 + ".mp4", None)])
def test_places_that_are_looked_at_before_the_work(tmp_path, monkeypatch, name, said):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "taken.mp4").mkdir()
  (tmp_path / "full.mp4").symlink_to("/dev/full")
  if said is None:
    assert output.check_video_path(name) == pathlib.Path(name)
  else:
    with pytest.raises(InputError, match=said):
      output.check_video_path(name)
  assert {path.name for path in tmp_path.iterdir()} == {"taken.mp4", "full.mp4"}
