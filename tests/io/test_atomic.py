"""Files appear whole or not at all, and say why when not."""

import errno
import json
import os
import stat

import pytest

from emv3_jax.errors import InputError
from emv3_jax.io.atomic import atomic_file, remove, write_json


def test_appears_at_the_end_with_ordinary_permissions(tmp_path):
  path = tmp_path / "clip.mp4"
  with atomic_file(path) as temporary:
    temporary.write_bytes(b"new")
    assert temporary.parent == tmp_path and temporary.suffix == ".mp4"
    assert not path.exists()
  assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["clip.mp4"]
  umask = os.umask(0)
  os.umask(umask)
  assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
  path = tmp_path / "clip.mp4"
  path.write_bytes(b"old")
  with pytest.raises(error), atomic_file(path) as temporary:
    temporary.write_bytes(b"ne")
    raise error
  assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["clip.mp4"]


def test_full_disk(tmp_path):
  path = tmp_path / "report.json"
  with pytest.raises(InputError, match=f"Cannot write {path}: No space left on device"):
    with atomic_file(path), open("/dev/full", "w") as full:
      full.write("x")
  assert os.listdir(tmp_path) == []


def test_full_disk_that_shows_only_when_synced(tmp_path, monkeypatch):
  def fsync(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "fsync", fsync)
  with pytest.raises(InputError, match="No space left"):
    write_json(tmp_path / "report.json", {})
  assert os.listdir(tmp_path) == []


def test_folder_not_writable(tmp_path, monkeypatch):
  def refuse(path, *_):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

  monkeypatch.setattr(os, "open", refuse)  # chmod does not stop a superuser
  with pytest.raises(InputError, match="a.json: Permission denied"):
    write_json(tmp_path / "a.json", {})


def test_places_that_cannot_hold_a_file(tmp_path):
  with pytest.raises(InputError, match=f"folder {tmp_path}/missing does not exist; make it first"):
    write_json(tmp_path / "missing" / "a.json", {})
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="Not a directory"):
    write_json(tmp_path / "file" / "a.json", {})
  with pytest.raises(InputError, match="it is a folder"):
    write_json(tmp_path, {})


def test_an_error_about_another_file_is_passed_on(tmp_path):
  with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.txt"):
    open(tmp_path / "other.txt")
  assert os.listdir(tmp_path) == []


def test_what_cannot_be_removed_is_told(tmp_path):
  remove(tmp_path / "absent")
  (tmp_path / "file").touch()
  remove(tmp_path / "file")
  assert not (tmp_path / "file").exists()
  with pytest.raises(InputError, match="is in the way and cannot be removed"):
    remove(tmp_path)


def test_json(tmp_path):
  path = tmp_path / "a.json"
  write_json(path, {"name": "Zoë", "steps": [1, 2]})
  assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Zoë", "steps": [1, 2]}
  with pytest.raises(ValueError, match="not JSON compliant"):
    write_json(path, {"loss": float("nan")})
  assert os.listdir(tmp_path) == ["a.json"] and "Zoë" in path.read_text(encoding="utf-8")


def test_names_that_are_not_utf8_are_read_back_from_json(tmp_path):
  name = os.fsdecode(b"caf\xe9.wav")
  write_json(tmp_path / "a.json", {"audio": name, "prompt": "caf\u00e9 \U0001f600"})
  text = (tmp_path / "a.json").read_text(encoding="utf-8")
  assert "caf\\udce9.wav" in text and "caf\u00e9 \U0001f600" in text
  assert json.loads(text)["audio"] == name
