"""The page in Chromium: a clip of the small default from its puppet to the history, while tabs reload and servers end.

Axe-core looks at each state; `--pictures=docs/images` writes what is to be seen.
"""

import base64
import contextlib
import importlib.resources
import io
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

from PIL import Image
import pytest

from tests.compiler import QUICK_FLAGS
from tests.web.conftest import FAKE

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 240_000  # milliseconds; a loaded machine compiles slowly
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}


class Server:
  """The page's server in a process of its own; `fake` takes the sampler of `fake_sampler`."""

  def __init__(self, folder: pathlib.Path, fake: bool = False):
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      self.port = free.getsockname()[1]
    code = "from emv3_jax.web import __main__, sampling_process\n"
    if fake:
      code += f"sampling_process.command = lambda *_: {[*FAKE, str(folder)]!r}\n"
    self._command = [sys.executable, "-c", code + "__main__.run()", f"--out={folder}", f"--port={self.port}"]

  def start(self) -> None:
    """Starts it; `address` is what it prints."""
    flags = f"--xla_force_host_platform_device_count=1 {QUICK_FLAGS}"
    self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                     text=True, env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"})
    assert self._process.stdout is not None
    self.address = self._process.stdout.readline().rpartition(": ")[2].strip()

  @property
  def pid(self) -> int:
    return self._process.pid

  @property
  def sampler(self) -> int:
    """The id of the process that samples."""
    children = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
    return next(int(pid) for pid in children if b"web.sampler" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())

  @contextlib.contextmanager
  def stopped_at(self, file: pathlib.Path):
    """Waits for a file, and holds the process that samples, so that a fast machine does not end before it is seen."""
    end = time.monotonic() + PATIENCE / 1000
    while not file.exists():
      assert time.monotonic() < end, file
      time.sleep(0.02)
    held = self.sampler
    os.kill(held, signal.SIGSTOP)
    try:
      yield
    finally:
      os.kill(held, signal.SIGCONT)

  def stop(self) -> int:
    self._process.send_signal(signal.SIGTERM)
    return self._process.wait(60)

  def kill(self) -> None:
    if self._process.poll() is None:
      self._process.kill()
      self._process.wait()


@contextlib.contextmanager
def browser(**options):
  with sync_api.sync_playwright() as playwright:
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[
        *sandbox, "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--disable-gpu"])
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce", **options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: message.type in ("error", "warning") and page.faults.append(message.text))
    yield page
    chromium.close()


def serious(page) -> list[str]:
  """Faults that axe-core calls serious or critical; none where it is not installed."""
  try:
    source = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
  except ModuleNotFoundError:
    return []
  page.evaluate(f"() => {{ {source} }}")
  found = page.evaluate("async () => (await axe.run()).violations")
  return [f"{fault['id']}: {fault['nodes'][0]['html']}" for fault in found if fault["impact"] in ("serious", "critical")]


def look(page, request, name: str) -> None:
  """Checks the page at both sizes, light and dark, and writes its pictures."""
  folder = request.config.getoption("--pictures")
  for size, (width, height) in SIZES.items():
    page.set_viewport_size({"width": width, "height": height})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for scheme in ("light", "dark"):
      page.emulate_media(color_scheme=scheme)
      if (size, scheme) not in (("wide", "light"), ("narrow", "dark")):
        continue
      assert serious(page) == []
      if folder:
        drawn = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        drawn.quantize(64).save(f"{folder}/web_{name}_{size}.png", optimize=True)
  page.set_viewport_size({"width": 1280, "height": 900})
  page.emulate_media(color_scheme="light")


def until(page, expression: str, argument=None, seconds: float = PATIENCE / 1000) -> None:
  """Waits until an expression is true; the page's policy forbids Playwright's own way."""
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    if page.evaluate(expression, argument):
      return
    page.wait_for_timeout(100)
  raise AssertionError(f"{expression}: {page.inner_text('main')}")


@pytest.fixture
def begun():
  """Starts a server, which ends with the test."""
  servers = []

  def start(server: Server) -> Server:
    servers.append(server)
    server.start()
    return server

  yield start
  for server in servers:
    server.kill()


def test_a_clip_from_puppet_to_history(tmp_path, request, begun):
  server = begun(Server(tmp_path / "page"))
  address = server.address
  with browser() as page:
    page.goto(address)
    assert page.url == f"http://127.0.0.1:{server.port}/"  # without the token
    page.get_by_role("button", name="Puppet 1").click()
    until(page, "document.getElementById('voice-told').textContent")
    look(page, request, "form")
    page.get_by_label("Steps", exact=True).fill("12")
    page.get_by_label("Use only so many seconds").fill("0.3")
    page.get_by_role("button", name="Make the clip").click()
    until(page, "document.getElementById('form-told').textContent.includes('agree')")
    page.get_by_label("has agreed to it").check()
    page.get_by_role("button", name="Make the clip").click()
    with server.stopped_at(tmp_path / "page/previews/page_00001.png"):
      page.get_by_label("Seed", exact=True).fill("7")
      page.get_by_role("button", name="Make the clip").click()
      second = page.get_by_role("button", name="Cancel page_00002")
      second.wait_for()
      page.reload()  # the draft is still there
      until(page, "document.getElementById('face-y1').value === '17'")
      assert page.get_by_label("Seed", exact=True).input_value() == "7"
      until(page, "[...document.querySelectorAll('#queue img')].some(image => !image.hidden && image.naturalWidth)")
      assert re.search(r"step \d+ of 12", page.inner_text("#queue"))
      look(page, request, "queue")
      second.click()
      until(page, "document.getElementById('history').innerText.includes('cancelled')")
    until(page, "document.querySelectorAll('#history video').length === 1")
    until(page, "document.querySelector('#history video').readyState >= 1")
    assert page.evaluate("document.querySelector('#history video').videoWidth") == 384

    page.get_by_role("button", name="Try again: page_00002").click()
    page.get_by_role("button", name="Cancel page_00002").wait_for()
    assert server.stop() == 75  # in the middle of the second clip, or before
    until(page, "document.getElementById('banner').textContent.includes('does not answer')")
    assert page.faults and all("ERR_CONNECTION_REFUSED" in fault or "Failed to load" in fault for fault in page.faults)
    page.faults.clear()
    server.start()
    until(page, "document.querySelectorAll('#history video').length === 2")
    page.faults.clear()  # of the seconds without a server

    page.get_by_role("button", name="Take the settings over: page_00001").click()
    assert page.get_by_label("Seed", exact=True).input_value() == "43"
    assert page.get_by_label("Steps", exact=True).input_value() == "12"
    for name in ("page_00001", "page_00002"):
      page.get_by_label(f"Compare {name}").check()
    page.get_by_role("button", name="Play both").click()
    look(page, request, "history")
    with page.expect_download() as download:
      page.get_by_role("link", name="Download page_00002").click()
    assert pathlib.Path(download.value.path()).read_bytes() == (tmp_path / "page/page_00002.mp4").read_bytes()
    page.get_by_role("button", name="Delete: page_00001").click()
    page.get_by_role("button", name="Delete it").click()
    until(page, "document.querySelectorAll('#history video').length === 1")
    assert not list((tmp_path / "page").glob("page_00001*"))
    assert page.faults == []


@pytest.mark.slow
def test_inputs_of_all_kinds(tmp_path, begun):
  """Picture by drop and paste, camera, recorded voice, face box by hand and by keyboard, wrong files, keyboard alone."""
  server = begun(Server(tmp_path / "page", fake=True))
  address = server.address
  picture = ROOT / "emv3_jax/assets/tiny/portrait.png"
  drop = """([kind, event]) => fetch('/static/icon.svg').then(async () => {
    const content = Uint8Array.from(atob(window.picture), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([content], 'me.png', {type: 'image/png'}));
    const target = document.getElementById(kind);
    target.dispatchEvent(event === 'paste' ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true})
      : new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
  })"""
  told = lambda kind, text: until(page, 
      "([id, text]) => document.getElementById(id).textContent.includes(text)", [f"{kind}-told", text])
  with browser(permissions=["camera", "microphone"]) as page:
    page.goto(address)
    page.locator("#task option").first.wait_for(state="attached")
    page.evaluate("content => { window.picture = content; }", base64.b64encode(picture.read_bytes()).decode())
    page.evaluate(drop, ["portrait-drop", "drop"])
    told("portrait", "me.png, 64x64")
    page.evaluate(drop, ["voice-drop", "drop"])  # a picture is no voice
    page.locator("#voice-told.wrong").wait_for()
    page.get_by_role("button", name="Camera", exact=True).click()
    until(page, "document.getElementById('camera-view').videoWidth > 0")
    page.get_by_role("button", name="Take the picture").click()
    told("portrait", "camera, ")
    page.evaluate(drop, ["prompt", "paste"])
    told("portrait", "me.png, 64x64")
    box = page.locator("#face-picture").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.5)
    page.mouse.up()
    assert page.evaluate("[...document.querySelectorAll('.edges input')].map(input => input.value)") == [
        "16", "32", "16", "48"]
    page.get_by_label("Bottom").fill("40")  # by keyboard
    assert page.locator("#face-frame").is_visible()
    page.get_by_role("button", name="Record").click()
    time.sleep(0.5)
    page.get_by_role("button", name="Stop recording").click()
    told("voice", "recording, ")
    page.get_by_label("has agreed to it").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "submit"
    page.keyboard.press("Enter")
    until(page, "document.getElementById('history').innerText.includes('page_00001')")
    page.faults = [fault for fault in page.faults if "422" not in fault]  # of the picture that is no voice
    assert page.faults == []
    report = (tmp_path / "page/page_00001.json").read_text()
    assert re.search(r'"face_box": "16,40,16,48"', report)
