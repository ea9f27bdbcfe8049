"""A page whose process samples nothing."""

import contextlib
import io
import json
import pathlib
import secrets
import sys
import time

import numpy as np
from PIL import Image
import pytest
from scipy.io import wavfile

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from starlette.testclient import TestClient

from emv3_jax.web import server
from emv3_jax.web.folder import Folder
from emv3_jax.web.page import Page
from emv3_jax.web.security import Guard, Sessions

PORT = 8123
OWN = f"http://127.0.0.1:{PORT}"
ORIGIN = {"origin": OWN}
FAKE = [sys.executable, str(pathlib.Path(__file__).with_name("fake_sampler.py"))]


class Opened(TestClient):
  """A browser in front of a page; `page` and `sessions` are the server's."""

  page: Page
  sessions: Sessions

  def wait(self, seen, seconds: float = 20.0):
    """Asks for the status until `seen` of it is true; returns that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
      status = self.get("/api/status").json()
      if found := seen(status):
        return found
      time.sleep(0.02)
    raise AssertionError(status)

  def entered(self) -> "Opened":
    self.get(f"/?token={self.sessions.new_token()}")
    return self

  def upload(self, kind: str, content: bytes, name: str = "a.bin", **headers):
    return self.post(f"/api/uploads/{kind}", content=content, headers={**ORIGIN, "x-file-name": name, **headers})

  def call(self, path: str, values=None):
    return self.post(path, json=values, headers=ORIGIN)

  def inputs(self) -> dict[str, str]:
    """Puts a portrait and a voice where decoded uploads are; returns their ids by kind."""
    made = {}
    for kind, content, suffix in (("portrait", picture(), ".png"), ("voice", sound(), ".wav")):
      made[kind] = name = secrets.token_hex(8)
      path = self.page.uploads.path / f"{name}{suffix}"
      path.write_bytes(content)
      path.with_suffix(".json").write_text(json.dumps({"id": name, "kind": kind, "file": path.name, "label": "a"}))
    return made

  def clip(self, prompt: str, uploads: dict[str, str], **fields):
    return self.call("/api/jobs", {"task": "i2v", "prompt": prompt, "uploads": uploads, "consent": True, **fields})


@contextlib.contextmanager
def opened(path, quota: int = 1 << 30, arguments=None):
  with contextlib.closing(Folder(path, quota)) as folder:
    page = Page(folder, arguments or [*FAKE, str(folder.path)])
    sessions = Sessions(folder.path / "sessions.json", PORT)
    app = Guard(server.make_app(page), sessions, frozenset({f"127.0.0.1:{PORT}", f"localhost:{PORT}"}))
    with Opened(app, base_url=OWN) as client:
      client.page, client.sessions = page, sessions
      yield client


@pytest.fixture
def client(tmp_path):
  with opened(tmp_path / "page") as found:
    yield found.entered()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
  """A page for tests that leave it as it was."""
  with opened(tmp_path_factory.mktemp("shared") / "page") as found:
    yield found.entered()


def picture(width: int = 32, height: int = 48) -> bytes:
  file = io.BytesIO()
  Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(file, format="PNG")
  return file.getvalue()


def sound(seconds: float = 0.2) -> bytes:
  file = io.BytesIO()
  wavfile.write(file, 16000, np.zeros(round(16000 * seconds), np.int16))
  return file.getvalue()
