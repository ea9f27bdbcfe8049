"""Converts released PyTorch checkpoints to model folders of this project, and back.

    emv3-convert SOURCE DEST [--component=auto] [--dtype=bfloat16] [--key=ema]
    emv3-convert --inspect SOURCE
    emv3-convert --export DIR FILE.safetensors [--component=transformer] [--replace]

SOURCE is a file, a folder, or owner/name[/folder][@revision] on the Hugging Face hub.
Exit codes: 0; 1 if --inspect found some parts that cannot be read; 2 for wrong input.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import sys
from typing import Any

from absl import logging
import jax

from emv3_jax.errors import InputError
from emv3_jax.io.model_card import CARD
from emv3_jax.io.paths import refuse_address
from emv3_jax.runtime import command_line
from emv3_jax.runtime.command_names import as_called

from .exporting import export
from .importing import CHOICES, convert
from .inspecting import inspect_folder, inspect_source
from .plan import COMPONENTS, DTYPES
from .sources import find


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
  parser = command_line.Parser(prog=as_called("emv3-convert"), description=as_called(__doc__ or ""))
  parser.add_argument("paths", nargs="+", metavar="PATH", help="SOURCE DEST, SOURCE, or DIR FILE")
  mode = parser.add_mutually_exclusive_group()
  mode.add_argument("--inspect", action="store_true", help="show what SOURCE contains, write nothing")
  mode.add_argument("--export", action="store_true", help="write DIR's component to FILE")
  parser.add_argument("--component", default="auto", choices=CHOICES,
                      help="convert only this part (default: all parts that are found)")
  parser.add_argument("--dtype", default="keep", choices=("keep", *DTYPES),
                      help="dtype of the stored parameters (default: that of the files)")
  parser.add_argument("--config_json", "--config-json", metavar="FILE_OR_JSON", default="{}",
                      help='sizes that cannot be inferred from shapes, e.g. \'{"num_heads": 3}\'')
  parser.add_argument("--key", default="", metavar="WORDS", help="of a file with several sets of weights, "
                      "convert the one whose names begin with WORDS and a dot, e.g. ema")
  parser.add_argument("--replace", action="store_true",
                      help="replace a component that DEST already has, or FILE")
  options = parser.parse_args(arguments)
  wanted = 1 if options.inspect else 2
  if len(options.paths) != wanted:
    parser.error(f"{len(options.paths)} paths given, wanted {wanted}: "
                 f"{'SOURCE' if options.inspect else 'DIR FILE' if options.export else 'SOURCE DEST'}")
  return options


def _given_config(text: str) -> dict:
  """Reads config fields from JSON, or from a JSON file."""
  try:
    content = json.loads(text if text.lstrip().startswith("{") else pathlib.Path(text).read_text())
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(f"--config_json={text[:200]} is neither JSON nor a file that holds it "
                     f"({str(error)[:150]}).") from error
  if not isinstance(content, dict):
    raise InputError(f"--config_json holds a {type(content).__name__}, wanted an object.")
  return _tuples(content)


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _tuples(part) for name, part in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def run(options: argparse.Namespace) -> tuple[list[str], list[InputError]]:
  """Runs the command; returns the lines to print, and errors of parts that cannot be read."""
  for path in options.paths:
    refuse_address(path, "Path")
  if options.export:
    folder, file = map(pathlib.Path, options.paths)
    component = "transformer" if options.component == "auto" else options.component
    if component not in COMPONENTS:
      raise InputError(f"--component={component} cannot be exported; known: "
                       f"{', '.join(COMPONENTS)}.")
    return [export(folder, file, component, options.replace)], []
  if options.inspect and (pathlib.Path(options.paths[0]) / CARD).exists():
    return inspect_folder(pathlib.Path(options.paths[0]))
  source, given = find(options.paths[0], options.key), _given_config(options.config_json)
  if options.inspect:
    return inspect_source(source, options.component, given)
  return convert(source, pathlib.Path(options.paths[1]), options.component, options.dtype, given,
                 options.replace), []


def main(arguments: list[str] | None = None) -> int:
  if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")  # conversion computes nothing
  stderr_text, options = io.StringIO(), argparse.Namespace(paths=[])
  # If the disk is full, Orbax logs and prints tracebacks of its threads in addition to the error that it
  # raises; the message would be hard to find among them.
  logging.set_verbosity(logging.FATAL)
  command_line.quieten_asyncio()
  for stream in (sys.stdout, sys.stderr):  # names in files may have characters that the terminal cannot show
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")
  try:
    options = parse(arguments)
    with contextlib.redirect_stderr(stderr_text):
      lines, problems = run(options)
  except InputError as error:
    print(command_line.legible(str(error)), file=sys.stderr)
    return 2
  except (OSError, RecursionError) as error:  # deeply nested JSON raises RecursionError
    where = str(getattr(error, "filename", None) or " ".join(options.paths))
    print(f"{where[:200]} cannot be read or written ({getattr(error, 'strerror', None) or error}).",
          file=sys.stderr)
    return 2
  except BaseException:
    sys.stderr.write(stderr_text.getvalue())
    raise
  sys.stderr.write(stderr_text.getvalue())
  for line in lines:
    print(line, file=sys.stderr if line.startswith("warning: ") else sys.stdout)
  for problem in problems:
    print("cannot be read: " + " ".join(str(problem).splitlines()), file=sys.stderr)
  return 1 if problems else 0


if __name__ == "__main__":
  sys.exit(main())
