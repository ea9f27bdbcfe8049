"""The page: `make web`, or python -m emv3_jax.web [--config=tiny] [--checkpoint=DIR] [--out=outputs/web].

It listens on 127.0.0.1 alone and prints an address that works once. Ctrl-C ends it; a clip that is being made then is
made again after the next start. Exit code 2 for wrong input.
"""

import argparse
import asyncio
from collections.abc import Sequence
import contextlib
import signal
import socket
import sys

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.web.folder import QUOTA, Folder
from emv3_jax.web.security import Guard, Sessions

HOST, PORT, BACKLOG = "127.0.0.1", 8123, 2048
KEEP_ALIVE = 75  # seconds; tabs ask every second, and browsers on a loaded machine later


def make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog="python -m emv3_jax.web", description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--config", default="tiny", help="config file, or name of a shipped config; default: tiny")
  parser.add_argument("--checkpoint", default="", help="model folder; default: the config's")
  parser.add_argument("--out", default="outputs/web", help="folder of clips, uploads and queue; default: outputs/web")
  parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}")
  parser.add_argument("--quota_gib", type=float, default=QUOTA / 2**30, help="what the folder may take; default: 8")
  parser.add_argument("--no_previews", action="store_true",
                      help="no pictures while a clip is made, which need the VAE beside the transformer")
  parser.add_argument("--verbose", action="store_true", help="log every request, without queries")
  return parser


def listen(port: int) -> socket.socket:
  """Opens the port on 127.0.0.1.

  Raises:
    InputError: another program has it.
  """
  opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
  opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    opened.bind((HOST, port))
    opened.listen(BACKLOG)  # before the address is printed
  except (OSError, OverflowError) as error:
    opened.close()
    raise InputError(f"Port {port} of {HOST} cannot be used: {getattr(error, 'strerror', error)}; "
                     "choose another with --port.") from None
  return opened


def main(arguments: Sequence[str]) -> int:
  flags = make_parser().parse_args(arguments)
  from emv3_jax.web import server  # needs packages of the extra `web`
  logging.use_absl_handler()
  logging.set_verbosity(1 if flags.verbose else logging.INFO)
  opened = listen(flags.port)
  with opened, contextlib.closing(Folder(flags.out, round(flags.quota_gib * 2**30))) as folder:
    asyncio.run(_serve(flags, opened, folder, server))
  return 0


async def _serve(flags: argparse.Namespace, opened: socket.socket, folder: Folder, server) -> None:
  import uvicorn

  from emv3_jax.web import sampling_process
  from emv3_jax.web.page import Page
  port = opened.getsockname()[1]
  sessions = Sessions(folder.path / "sessions.json", port)

  def tell(words: str = "Another browser") -> None:
    print(f"{words}: http://{HOST}:{port}/?token={sessions.new_token()}", flush=True)

  page = Page(folder, sampling_process.command(flags.config, flags.checkpoint, folder, not flags.no_previews))
  hosts = frozenset(f"{name}:{port}" for name in (HOST, "localhost"))
  app = Guard(server.make_app(page), sessions, hosts, tell)
  running = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning", server_header=False, lifespan="on",
                                          proxy_headers=False, timeout_graceful_shutdown=3,
                                          timeout_keep_alive=KEEP_ALIVE, ws="none", backlog=BACKLOG))
  tell("The page, for one browser")
  await running.serve([opened])


def run() -> None:
  signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the server is there
  try:
    code = main(sys.argv[1:])
  except InputError as error:
    print(error, file=sys.stderr)
    code = 2
  except KeyboardInterrupt:
    code = 75
  sys.exit(code)


if __name__ == "__main__":
  run()
