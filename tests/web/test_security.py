"""The page is open to the person who started it, in the page's own tabs, and to nobody else."""

import os
import pathlib
import socket
import stat
import subprocess
import sys

import pytest

from emv3_jax.errors import InputError
from emv3_jax.web.folder import Folder
from emv3_jax.web.security import Sessions
from tests.web.conftest import ORIGIN, OWN, opened


def test_the_token_becomes_a_cookie_and_a_clean_address_once(client):
  client.cookies.clear()
  assert client.get("/api/status").status_code == 401
  token = client.sessions.new_token()
  answer = client.get(f"/?token={token}", follow_redirects=False)
  assert answer.status_code == 303 and answer.headers["location"] == "/"
  cookie = answer.headers["set-cookie"]
  assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and token not in cookie
  assert client.get("/api/status").status_code == 200
  assert client.get(f"/?token={token}", follow_redirects=False).headers["location"] == "/"  # opened again
  client.cookies.clear()
  for used in (token, "wrong", ""):
    assert client.get(f"/?token={used}", follow_redirects=False).status_code == 401


def test_two_browsers_and_a_restart(tmp_path):
  with opened(tmp_path) as first:
    first.entered()
    cookies = dict(first.cookies)
    first.cookies.clear()
    first.entered()
    assert dict(first.cookies) != cookies
    first.cookies.clear()
    first.cookies.update(cookies)  # the second browser does not end the first one's session
    assert first.get("/api/status").status_code == 200
    kept = (first.page.folder.path / "sessions.json").read_text()
    assert not any(value in kept for value in cookies.values())
    assert stat.S_IMODE(os.stat(first.page.folder.path / "sessions.json").st_mode) == 0o600
  with opened(tmp_path) as again:
    again.cookies.update(cookies)
    assert again.get("/api/status").status_code == 200


@pytest.mark.parametrize("headers", [
    {"host": "evil.example"}, {"host": "127.0.0.1:80"}, {"host": "127.0.0.1:8123.evil.example"}])
def test_another_host_is_refused(shared, headers):
  assert shared.get("/api/status", headers=headers).status_code == 421


@pytest.mark.parametrize("headers", [
    {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:8124"},
    {"origin": "https://127.0.0.1:8123"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}])
def test_another_origin_is_refused(shared, headers):
  for call in (shared.get("/api/status", headers=headers),
               shared.post("/api/jobs/page_00001/cancel", headers=headers),
               shared.delete("/api/clips/page_00001", headers=headers)):
    assert call.status_code == 403


def test_what_changes_something_needs_an_origin(shared):
  assert shared.post("/api/jobs", json={}).status_code == 403
  assert shared.post("/api/jobs", json={}, headers={"sec-fetch-site": "same-origin"}).status_code == 422
  assert shared.post("/api/jobs", json={}, headers=ORIGIN).status_code == 422


@pytest.mark.parametrize("path", ["/", "/api/status", "/static/none.js", "/api/clips/none/video"])
def test_headers_are_on_every_answer(shared, path):
  for answer in (shared.get(path), shared.get(path, headers={"host": "evil.example"})):
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("name", ["..%2f..%2fsessions.json", "%2e%2e", ".page", "sessions", "%2e%2e%2fsessions",
                                  "..%5c..%5csessions", "a%00b", "consent", "queue%2fpage_00001", "uploads"])
def test_names_lead_nowhere_else(shared, name):
  (shared.page.folder.path / "consent.json").write_text("{}")
  for path in (f"/api/clips/{name}/video", f"/api/clips/{name}/report", f"/api/uploads/{name}", f"/static/{name}",
               f"/api/jobs/{name}/preview"):
    assert shared.get(path).status_code in (404, 405), path
  assert shared.delete(f"/api/clips/{name}", headers=ORIGIN).status_code in (404, 405)
  assert (shared.page.folder.path / "sessions.json").exists()


def test_the_folder_is_private_and_one_servers(tmp_path):
  (tmp_path / "page").mkdir(mode=0o755)
  folder = Folder(tmp_path / "page")
  assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
  with pytest.raises(InputError, match="used by another page"):
    Folder(tmp_path / "page")
  folder.close()
  (tmp_path / "mine").mkdir(mode=0o755)
  (tmp_path / "mine/notes.txt").touch()
  with pytest.raises(InputError, match="chmod 700"):
    Folder(tmp_path / "mine")
  assert stat.S_IMODE(os.stat(tmp_path / "mine").st_mode) == 0o755


def test_sessions_end(tmp_path, monkeypatch):
  sessions = Sessions(tmp_path / "sessions.json", 1)
  value = sessions.exchange(sessions.new_token())
  assert sessions.is_known(value) and not sessions.is_known("")
  monkeypatch.setattr("time.time", lambda: 1e12)
  assert not sessions.is_known(value)


def test_the_server_takes_a_port_of_this_machine_alone_and_starts_without_jax(tmp_path):
  with socket.socket() as other:
    other.bind(("127.0.0.1", 0))
    port = other.getsockname()[1]
    code = "import sys; from emv3_jax.web import __main__, server, page; " \
           "assert 'jax' not in sys.modules; sys.exit(__main__.run())"
    done = subprocess.run([sys.executable, "-c", code, f"--port={port}", f"--out={tmp_path}/page"],
                          cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True)
  assert done.returncode == 2 and f"Port {port} of 127.0.0.1" in done.stderr, done.stderr
  assert OWN.startswith("http://127.0.0.1")
