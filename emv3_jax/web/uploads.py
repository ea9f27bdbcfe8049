"""Uploads: received with a limit, decoded in a process of their own, kept under names that the server makes."""

import asyncio
from collections.abc import AsyncIterator, Collection
import contextlib
import json
import os
import pathlib
import secrets
import sys
import time
from typing import Any

from emv3_jax.errors import InputError
from emv3_jax.io import atomic
from emv3_jax.web import decoding
from emv3_jax.web.folder import Folder, is_plain

LIMITS = {"portrait": 64 << 20, "last": 64 << 20, "voice": 256 << 20, "video": 512 << 20}  # bytes
SECONDS = 120.0  # of the clock, for decoding
AT_ONCE = 2  # uploads that are decoded at a time
KEPT_SECONDS = 7 * 86400.0  # for uploads of which no clip was made
LABEL = 80  # characters of a file's own name that are shown


class TooLarge(InputError):
  """An upload has more bytes than its kind may have."""


class Uploads:
  """The uploads in a folder. Each has a file, and ID.json with `id`, `kind`, `label`, sizes, and `file`.

  Args:
    folder: of the page.
  """

  def __init__(self, folder: Folder):
    self._folder, self.path = folder, folder.path / "uploads"
    self._decoders = asyncio.Semaphore(AT_ONCE)
    for left in self.path.glob(".*"):  # of a server that was killed
      left.unlink(missing_ok=True)

  async def receive(self, kind: str, label: str, declared: int | None, body: AsyncIterator[bytes]) -> dict[str, Any]:
    """Takes an upload.

    Args:
      kind: a key of `LIMITS`.
      label: the file's own name, which is shown and nothing else.
      declared: number of bytes that the request declares.
      body: the bytes.

    Returns:
      The upload's description.

    Raises:
      TooLarge: it has too many bytes; those that follow are not read.
      InputError: it is not of its kind, cannot be decoded within the limits, or there is no room for it.
    """
    if kind not in LIMITS:
      raise InputError(f"There is no upload of kind {kind!r}.")
    if (declared or 0) > LIMITS[kind]:
      raise _too_large(kind, declared or 0)
    self._folder.check_space(declared or 0)
    source = self.path / f".{secrets.token_hex(8)}.raw"
    try:
      await self._store(source, kind, body)
      return await self._decode(kind, label, source)
    finally:
      source.unlink(missing_ok=True)

  async def _store(self, source: pathlib.Path, kind: str, body: AsyncIterator[bytes]) -> None:
    size, room = 0, self._folder.quota - self._folder.used()
    try:
      with open(os.open(source, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        async for piece in body:
          size += len(piece)
          if size > LIMITS[kind]:
            raise _too_large(kind, size)
          if size > room:
            self._folder.check_space(size)
          file.write(piece)
    except OSError as error:
      raise InputError(f"The upload cannot be kept: {error.strerror}.") from None
    if not size:
      raise InputError("The file is empty (0 bytes).")

  async def _decode(self, kind: str, label: str, source: pathlib.Path) -> dict[str, Any]:
    name = secrets.token_hex(8)
    file = f"{name}{decoding.SUFFIX[kind]}"
    written = source.with_name(f".{file}")
    try:
      async with self._decoders:
        found = await run_child("emv3_jax.web.decoding", kind, str(source), str(written), seconds=SECONDS)
      self._folder.check_space()
      described = {"id": name, "kind": kind, "file": file, "label": _shown(label), **found}
      atomic.write_json(self.path / f"{name}.json", described)
      os.replace(written, self.path / file)
      return described
    finally:
      written.unlink(missing_ok=True)

  def get(self, name: str) -> dict[str, Any]:
    """Returns the description of an upload.

    Raises:
      KeyError: there is none of this id.
    """
    if not is_plain(name):
      raise KeyError(name)
    try:
      described = json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
      raise KeyError(name) from None
    if not (self.path / described["file"]).is_file():
      raise KeyError(name)
    return described

  def file(self, name: str) -> pathlib.Path:
    """Returns the path of an upload; raises KeyError if there is none of this id."""
    return self.path / self.get(name)["file"]

  def clear(self, used: Collection[str], seconds: float = KEPT_SECONDS) -> None:
    """Removes uploads that no job names and that are older than `seconds`."""
    for path in self.path.glob("[!.]*.json"):
      if path.stem not in used and time.time() - path.stat().st_mtime > seconds:
        self.delete(path.stem)

  def delete(self, name: str) -> None:
    """Removes an upload, if it is there."""
    with contextlib.suppress(KeyError):
      self.file(name).unlink(missing_ok=True)
      (self.path / f"{name}.json").unlink(missing_ok=True)


async def run_child(module: str, *arguments: str, seconds: float) -> dict[str, Any]:
  """Runs a module of this package that prints one JSON object, in a process of its own.

  Returns:
    The object.

  Raises:
    InputError: it says {"error": message}, takes longer than `seconds`, or ends without an answer.
  """
  process = await asyncio.create_subprocess_exec(
      sys.executable, "-m", module, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
      stderr=asyncio.subprocess.DEVNULL, env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"})
  try:
    output, _ = await asyncio.wait_for(process.communicate(), seconds)
  except TimeoutError:
    raise InputError(f"Decoding the file takes longer than {seconds:g} s.") from None
  finally:
    if process.returncode is None:
      with contextlib.suppress(ProcessLookupError):
        process.kill()
      await process.wait()
  try:
    answer = json.loads(output.splitlines()[-1])
  except (ValueError, IndexError):
    raise InputError("The file cannot be decoded within the limits of time and memory.") from None
  if "error" in answer:
    raise InputError(answer["error"])
  return answer


def _too_large(kind: str, size: int) -> TooLarge:
  return TooLarge(f"The file has {'more than ' if size < 2 * LIMITS[kind] else ''}{size >> 20} MiB; at most "
                  f"{LIMITS[kind] >> 20} MiB are taken as {kind}.")


def _shown(label: str) -> str:
  """Returns the last part of a name, without what is not printed."""
  plain = "".join(character for character in label if character.isprintable())
  return plain.replace("\\", "/").rpartition("/")[2][:LABEL]
