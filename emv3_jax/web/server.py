"""The page over HTTP: routes, and a server that listens on 127.0.0.1 alone.

Bodies of uploads are the bytes of one file; all others are JSON. Errors are {"error": message}.
"""

import contextlib
import importlib.resources
import json
import pathlib
from typing import Any
import urllib.parse

from emv3_jax.errors import InputError
from emv3_jax.web import puppets
from emv3_jax.web.page import Page
from emv3_jax.web.uploads import TooLarge

try:
  from fastapi import FastAPI, Request, Response
  from fastapi.responses import FileResponse, JSONResponse
except ImportError:
  raise InputError("The page needs FastAPI and uvicorn, which are not installed: pip install '.[web]'") from None

MAX_BODY = 1 << 20  # bytes of a JSON body
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
          ".svg": "image/svg+xml"}
_MEDIA = {".png": "image/png", ".wav": "audio/wav", ".mkv": "video/x-matroska"}


def static_files() -> dict[str, tuple[bytes, str]]:
  """Reads the page's own files, by name, with their media types; no other is served."""
  folder = importlib.resources.files("emv3_jax.web") / "static"
  return {file.name: (file.read_bytes(), _TYPES[pathlib.PurePath(file.name).suffix]) for file in folder.iterdir()
          if pathlib.PurePath(file.name).suffix in _TYPES}


def make_app(page: Page) -> FastAPI:
  """Makes the application of a page."""
  @contextlib.asynccontextmanager
  async def lifespan(_):
    page.start()
    yield
    await page.stop()

  app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
  files = static_files()
  page_status = lambda: Response(page.status(), media_type="application/json")

  @app.exception_handler(InputError)
  async def wrong(_, error: InputError):
    return JSONResponse({"error": str(error)}, 413 if isinstance(error, TooLarge) else 422)

  @app.exception_handler(KeyError)
  async def missing(*_):
    return JSONResponse({"error": "There is none of this name."}, 404)

  @app.get("/")
  async def index():
    return Response(files["index.html"][0], media_type=_TYPES[".html"])

  @app.get("/static/{name}")
  async def static(name: str):
    content, kind = files[name]
    return Response(content, media_type=kind)

  @app.get("/api/status")
  async def status():
    return page_status()

  @app.get("/api/form")
  async def form():
    return JSONResponse({"form": page.sampling.form, "puppets": puppets.COUNT})

  @app.get("/api/history")
  async def history():
    return JSONResponse(page.history.list())

  @app.post("/api/uploads/{kind}")
  async def upload(kind: str, request: Request):
    declared = request.headers.get("content-length", "")
    label = urllib.parse.unquote(request.headers.get("x-file-name", ""))
    return JSONResponse(await page.uploads.receive(
        kind, label, int(declared) if declared.isdigit() else None, request.stream()))

  @app.get("/api/uploads/{name}")
  async def uploaded(name: str):
    file = page.uploads.file(name)
    return FileResponse(file, media_type=_MEDIA[file.suffix])

  @app.post("/api/face/{name}")
  async def face(name: str):
    return {"face_box": await page.find_face(name)}

  @app.post("/api/puppets/{number}")
  async def puppet(number: str):
    if number not in map(str, range(puppets.COUNT)):
      raise KeyError(number)
    return await page.puppet(int(number))

  @app.post("/api/jobs")
  async def add(request: Request):
    return {"name": page.add(await _json(request)).name}

  @app.post("/api/jobs/{name}/{action}")
  async def act(name: str, action: str):
    done = {"cancel": page.cancel, "retry": page.retry}[action](name)
    if not done:
      raise KeyError(name)
    return page_status()

  @app.get("/api/jobs/{name}/preview")
  async def preview(name: str):
    return _file(page.preview(name), "image/png")

  @app.get("/api/clips/{name}/video")
  async def video(name: str):
    return _file(page.history.file(name, ".mp4"), "video/mp4", name)

  @app.get("/api/clips/{name}/report")
  async def report(name: str):
    return _file(page.history.file(name, ".json"), "application/json", name)

  @app.delete("/api/clips/{name}")
  async def delete(name: str):
    if not page.delete(name):
      raise KeyError(name)
    return page_status()

  return app


def _file(path: pathlib.Path | None, kind: str, name: str = "") -> FileResponse:
  if path is None:
    raise KeyError(name)
  headers = {"content-disposition": f'inline; filename="{name}{path.suffix}"'} if name else {}
  return FileResponse(path, media_type=kind, headers=headers)


async def _json(request: Request) -> Any:
  content = bytearray()
  async for piece in request.stream():
    content += piece
    if len(content) > MAX_BODY:
      raise TooLarge(f"The request has more than {MAX_BODY >> 20} MiB.")
  try:
    return json.loads(content)
  except (ValueError, RecursionError):
    raise InputError("The request is no JSON.") from None
