"""The page under load: 20 clients that ask every second while clips are made, and a burst of 1,000 requests."""

import http.client
import json
import os
import pathlib
import statistics
import threading
import time
import urllib.parse

import pytest

from tests.web.test_browser import Server, begun  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow
CLIENTS, SECONDS, BURST, AT_ONCE = 20, 60.0, 1000, 50


class Client:
  """One connection to the page, with its cookie."""

  def __init__(self, port: int, cookie: str = ""):
    self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    self._origin, self.cookie, self.keeps = f"http://127.0.0.1:{port}", cookie, True

  def ask(self, method: str, path: str, values=None):
    if not self.keeps:
      self._connection.close()  # it may be idle for longer than the server keeps it
    body = None if values is None else json.dumps(values)
    self._connection.request(method, path, body, {"Cookie": self.cookie, "Origin": self._origin})
    answer = self._connection.getresponse()
    content = answer.read()
    self.cookie = self.cookie or (answer.headers["set-cookie"] or "").partition(";")[0]
    assert answer.status in (200, 303), (path, answer.status, content[:200])
    return json.loads(content or b"{}")


class Load:
  """Clients that ask for the status every second; seconds of their answers, and faults."""

  def __init__(self, port: int, cookie: str):
    self.answers, self.faults, self.lasted = [], [], 0.0
    self._end = threading.Event()
    self._threads = [threading.Thread(target=self._run, args=(port, cookie, i / CLIENTS)) for i in range(CLIENTS)]

  def _run(self, port: int, cookie: str, offset: float) -> None:
    client = Client(port, cookie)
    self._end.wait(offset)
    while not self._end.is_set():
      begin = time.monotonic()
      try:
        client.ask("GET", "/api/status")
        self.answers.append(time.monotonic() - begin)
      except Exception as error:
        self.faults.append(repr(error))
        client = Client(port, cookie)
      self._end.wait(max(0.0, 1 - (time.monotonic() - begin)))

  def __enter__(self):
    self._begin = time.monotonic()
    for thread in self._threads:
      thread.start()
    return self

  def __exit__(self, *_):
    self._end.set()
    for thread in self._threads:
      thread.join()
    self.lasted = time.monotonic() - self._begin


def cpu_seconds(pid: int) -> float:
  """User and system seconds of a process."""
  fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def p99(seconds: list[float]) -> float:
  return 1000 * statistics.quantiles(seconds, n=100)[98]


def test_many_clients_while_clips_are_made(tmp_path, record_property, begun):  # noqa: F811
  server = begun(Server(tmp_path / "page"))
  address = urllib.parse.urlsplit(server.address)
  client = Client(server.port)
  client.ask("GET", f"/?{address.query}")
  client.keeps = False
  end = time.monotonic() + 300
  while (form := client.ask("GET", "/api/form")["form"]) is None and time.monotonic() < end:
    time.sleep(1)
  assert form is not None
  found = client.ask("POST", "/api/puppets/0")
  uploads = {kind: upload["id"] for kind, upload in found["uploads"].items()}

  sampler = server.sampler

  def clip(steps: int) -> tuple[float, float]:
    """Makes a clip; returns the transformer's seconds, and the processor's of all of it."""
    before = cpu_seconds(sampler)
    name = client.ask("POST", "/api/jobs", {
        "prompt": found["prompt"], "uploads": uploads, "face_box": found["face_box"], "consent": True,
        "settings": {"steps": str(steps)}})["name"]
    path = tmp_path / f"page/{name}.json"
    while not path.exists():
      time.sleep(0.2)
    return json.loads(path.read_text())["seconds"]["transformer"], round(cpu_seconds(sampler) - before, 2)

  clip(5)  # compiles
  a_step = clip(5)[0] / 5
  steps = min(1000, max(5, round(SECONDS / 2 / a_step)))
  quiet, loaded, answers, faults, lasted = [], [], [], [], 0.0
  served = 0.0
  while lasted < SECONDS or len(loaded) < 2:
    quiet.append(clip(steps))
    before = cpu_seconds(server.pid)
    with Load(server.port, client.cookie) as load:
      loaded.append(clip(steps))
    served += cpu_seconds(server.pid) - before
    answers, faults, lasted = answers + load.answers, faults + load.faults, lasted + load.lasted
  slower, slower_cpu = (min(times) / min(alone) for times, alone in zip(zip(*loaded, strict=True), zip(*quiet, strict=True), strict=True))

  burst, burst_faults = [], []

  def ask_many(count: int) -> None:
    own = Client(server.port, client.cookie)
    for _ in range(count):
      begin = time.monotonic()
      try:
        own.ask("GET", "/api/status")
        burst.append(time.monotonic() - begin)
      except Exception as error:
        burst_faults.append(repr(error))

  begin = time.monotonic()
  threads = [threading.Thread(target=ask_many, args=(BURST // AT_ONCE,)) for _ in range(AT_ONCE)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  figures = {
      "clients": CLIENTS, "seconds_under_load": round(lasted), "requests": len(answers), "failed": len(faults),
      "p50_ms": round(1000 * statistics.median(answers), 1), "p99_ms": round(p99(answers), 1),
      "most_ms": round(1000 * max(answers), 1), "steps_of_a_clip": steps,
      "wall_and_cpu_seconds_quiet": quiet, "wall_and_cpu_seconds_loaded": loaded, "slower": round(slower, 3),
      "slower_by_cpu_seconds": round(slower_cpu, 3), "server_cpu_share_of_a_core": round(served / lasted, 4),
      "burst_requests": len(burst), "burst_failed": len(burst_faults), "burst_p99_ms": round(p99(burst), 1),
      "burst_seconds": round(time.monotonic() - begin, 2), "load_average_of_the_machine": os.getloadavg()[0]}
  for name, value in figures.items():
    record_property(name, value)
  assert not faults and not burst_faults and len(burst) == BURST
  assert figures["p99_ms"] < 500
  assert slower_cpu < 1.10 and figures["server_cpu_share_of_a_core"] < 0.10  # the wall's figure is other jobs' too


