"""Who may use the page: the person who started it, from this machine, in the page's own tabs.

The first address has a token, which works once: the server exchanges it for a cookie and a clean address. Requests
for another host (DNS rebinding), from another origin, or without the cookie are refused before the page sees them.
"""

from collections.abc import Awaitable, Callable, MutableMapping
import hashlib
import hmac
import json
import os
import pathlib
import secrets
import time
from typing import Any
import urllib.parse

from absl import logging

from emv3_jax.io import atomic

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable, Callable], Awaitable[None]]

SESSION_SECONDS = 30 * 86400
MAX_SESSIONS = 64
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "x-frame-options": "DENY", "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin", "permissions-policy": "camera=(self), microphone=(self)",
    "cache-control": "no-store"}
_SAFE = ("GET", "HEAD")
_CLOSED = ("This page is open only to the person who started it. Open the address that the server printed in its "
           "terminal; each works once, and the next one is printed there.\n")


class Sessions:
  """Tokens of first addresses, and the cookies that they were exchanged for.

  Cookies outlive the server. Their digests alone are kept.

  Args:
    file: where the digests are kept.
    port: of the server; browsers share cookies between ports.
  """

  def __init__(self, file: pathlib.Path, port: int):
    self.cookie = f"emv3_page_{port}"
    self._file, self._token = file, ""
    self._until: dict[str, float] = _read(file)

  def new_token(self) -> str:
    """Returns the token of the next address; earlier ones no longer work."""
    self._token = secrets.token_urlsafe(32)
    return self._token

  def exchange(self, token: str) -> str | None:
    """Exchanges the token for the value of a new cookie; None if it is wrong or was used."""
    if not self._token or not hmac.compare_digest(token.encode(), self._token.encode()):
      return None
    self._token, value = "", secrets.token_urlsafe(32)
    now = time.time()
    alive = sorted((until, digest) for digest, until in self._until.items() if until > now)[-MAX_SESSIONS + 1:]
    self._until = {digest: until for until, digest in alive} | {_digest(value): now + SESSION_SECONDS}
    atomic.write_json(self._file, self._until)
    os.chmod(self._file, 0o600)
    return value

  def is_known(self, value: str) -> bool:
    """Returns whether a cookie's value was given out and has not ended."""
    return self._until.get(_digest(value), 0.0) > time.time()


class Guard:
  """ASGI middleware in front of all of the page.

  Args:
    app: the page.
    sessions: tokens and cookies.
    hosts: values of the header Host that are this server's.
    told: is called when a token was used, to tell the next address.
  """

  def __init__(self, app: App, sessions: Sessions, hosts: frozenset[str], told: Callable[[], None] = lambda: None):
    self._app, self._sessions, self._hosts, self._told = app, sessions, hosts, told

  async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
    if scope["type"] == "lifespan":
      await self._app(scope, receive, send)
      return
    if scope["type"] != "http":  # there is no other; websockets would need an origin check of their own
      return
    started = time.monotonic()

    async def guarded(message: dict) -> None:
      if message["type"] == "http.response.start":
        own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in {name for name, _ in own}]
        message = {**message, "headers": [*kept, *own]}
        # The path alone: queries may have a token.
        logging.vlog(1, "%s %s %d %.0f ms", scope["method"], scope["path"], message["status"],
                     1000 * (time.monotonic() - started))
      await send(message)

    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    repeated = sum(name.lower() == b"host" for name, _ in scope["headers"]) != 1
    if repeated or headers.get("host", "").lower() not in self._hosts:
      await _answer(guarded, 421, "This server answers on its own address only.\n")
    elif not self._is_own_origin(headers, scope["method"]):
      await _answer(guarded, 403, "Requests of other pages are refused.\n")
    elif scope["path"] == "/" and scope["method"] == "GET" and b"token=" in scope["query_string"]:
      await self._exchange(scope, guarded, self._is_known(headers))
    elif not self._is_known(headers):
      await _answer(guarded, 401, _CLOSED)
    else:
      await self._app(scope, receive, guarded)

  def _is_own_origin(self, headers: dict[str, str], method: str) -> bool:
    origin = headers.get("origin")
    if origin is not None:
      return origin.lower() == f"http://{headers['host'].lower()}"
    site = headers.get("sec-fetch-site", "none")
    return site in ("none", "same-origin") if method in _SAFE else site == "same-origin"

  def _is_known(self, headers: dict[str, str]) -> bool:
    return self._sessions.is_known(_cookie(headers.get("cookie", ""), self._sessions.cookie))

  async def _exchange(self, scope: Scope, send: Callable, is_known: bool) -> None:
    found = urllib.parse.parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
    value = self._sessions.exchange(found[0])
    if value is None and is_known:  # the address was opened again
      await _answer(send, 303, "", [(b"location", b"/")])
      return
    if value is None:
      await _answer(send, 401, _CLOSED)
      return
    cookie = f"{self._sessions.cookie}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={SESSION_SECONDS}"
    await _answer(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
    self._told()


async def _answer(send: Callable, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
  body = text.encode()
  await send({"type": "http.response.start", "status": status, "headers": [
      (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()),
      (b"connection", b"close"), *(headers or [])]})
  await send({"type": "http.response.body", "body": body})


def _cookie(header: str, name: str) -> str:
  for part in header.split(";"):
    key, _, value = part.strip().partition("=")
    if key == name:
      return value
  return ""


def _digest(value: str) -> str:
  return hashlib.sha256(value.encode()).hexdigest()


def _read(file: pathlib.Path) -> dict[str, float]:
  try:
    found = json.loads(file.read_text())
    return {str(digest): float(until) for digest, until in found.items()}
  except (OSError, ValueError, AttributeError, TypeError):
    return {}
