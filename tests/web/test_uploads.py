"""Uploads are decoded elsewhere, within limits, and kept under names of the server's."""

import io
import os
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image
import pytest

from emv3_jax.errors import InputError
from emv3_jax.web import decoding, uploads
from tests.web.conftest import opened, picture, sound


def files(client):
  return sorted(path.name for path in (client.page.folder.path / "uploads").iterdir())


def test_a_portrait_and_a_voice_come_back_decoded(shared):
  found = shared.upload("portrait", picture(32, 48), "../../Portrait%20of%20me.png").json()
  assert (found["width"], found["height"], found["label"]) == (32, 48, "Portrait of me.png")
  served = shared.get(f"/api/uploads/{found['id']}")
  assert served.headers["content-type"] == "image/png"
  assert np.asarray(Image.open(io.BytesIO(served.content))).shape == (48, 32, 3)
  voice = shared.upload("voice", sound(0.5)).json()
  assert voice["seconds"] == 0.5
  assert set(files(shared)) >= {f"{found['id']}.png", f"{found['id']}.json", f"{voice['id']}.wav",
                                f"{voice['id']}.json"}


def bomb() -> bytes:
  """A PNG of a few bytes that says it has 900 megapixels."""
  chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
  header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def archive() -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as content:
    content.writestr("portrait.png", picture())
  return file.getvalue()


@pytest.mark.parametrize("kind, content, words", [
    ("portrait", archive(), "not an image"), ("portrait", bomb(), "megapixels"), ("portrait", b"", "empty"),
    ("portrait", picture()[:60], "cannot be read whole"), ("portrait", sound(), "not an image"),
    ("voice", picture(), ""), ("other", picture(), "no upload of kind")])
def test_what_is_no_such_file_is_refused_and_leaves_nothing(shared, kind, content, words):
  before = files(shared)
  answer = shared.upload(kind, content)
  assert answer.status_code == 422
  message = answer.json()["error"]
  assert words in message and "\n" not in message and str(shared.page.folder.path) not in message
  assert files(shared) == before


def test_too_many_bytes_are_refused_before_they_are_read(shared, monkeypatch):
  before = files(shared)
  answer = shared.upload("voice", b"", **{"content-length": str(2 << 30)})
  assert answer.status_code == 413 and "2048 MiB" in answer.json()["error"]
  monkeypatch.setitem(uploads.LIMITS, "voice", 1000)
  pieces = iter([bytes(400)] * 3)  # without a declared length
  answer = shared.post("/api/uploads/voice", content=pieces, headers={"origin": "http://127.0.0.1:8123"})
  assert answer.status_code == 413 and files(shared) == before


def test_the_folder_has_a_quota(tmp_path):
  with opened(tmp_path, quota=20_000) as client:
    client.entered()
    assert client.upload("portrait", picture()).status_code == 200
    answer = client.upload("voice", sound(1.0))
    assert answer.status_code == 422 and "delete clips" in answer.json()["error"]


def test_decoding_ends_in_time(shared, monkeypatch):
  monkeypatch.setattr(uploads, "SECONDS", 0.01)
  answer = shared.upload("portrait", picture())
  assert answer.status_code == 422 and "longer than 0.01 s" in answer.json()["error"]


def test_the_decoder_has_limits(monkeypatch):
  kept = {}
  monkeypatch.setattr(decoding.resource, "setrlimit", lambda kind, values: kept.update({kind: values[0]}))
  decoding.limit()
  assert kept[decoding.resource.RLIMIT_AS] == decoding.MEMORY
  assert 0 < kept[decoding.resource.RLIMIT_CPU] <= decoding.SECONDS
  assert kept[decoding.resource.RLIMIT_CORE] == 0


def test_pictures_have_a_limit_of_pixels(tmp_path, monkeypatch):
  monkeypatch.setattr(decoding, "PIXELS", 1000)
  (tmp_path / "a").write_bytes(picture())
  with pytest.raises(InputError, match="32x48"):
    decoding.decode("portrait", tmp_path / "a", tmp_path / "b.png")


def test_a_video_is_kept_without_loss(tmp_path):
  from emv3_jax.io import video_files
  frames = np.random.default_rng(0).integers(0, 256, (4, 16, 32, 3)).astype(np.uint8)
  video_files.write_video(tmp_path / "a.mp4", frames)
  found = decoding.decode("video", tmp_path / "a.mp4", tmp_path / "b.mkv")
  assert found == {"height": 16, "width": 32, "seconds": 0.16}
  before, after = (video_files.read_video(tmp_path / name).frames for name in ("a.mp4", "b.mkv"))
  assert np.array_equal(before, after)


def test_uploads_that_nothing_is_made_of_go_after_a_week(tmp_path):
  with opened(tmp_path) as client:
    kept, gone, new = client.inputs(), client.inputs(), client.inputs()
    for name in (*kept.values(), *gone.values()):
      os.utime(client.page.uploads.path / f"{name}.json", (0, 0))
    client.page.uploads.clear(set(kept.values()))
    left = {path.stem for path in client.page.uploads.path.iterdir()}
    assert left == {*kept.values(), *new.values()}
