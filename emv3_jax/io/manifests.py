"""Manifests: text files with one JSON object per line, written by any program.

Sampling and preparation read their manifests with it. A line that cannot be used is returned with its
fault, so that the other lines can be used.
"""

import codecs
from collections.abc import Hashable, Iterable
import dataclasses
import json
import math
import pathlib
import stat
from typing import Any

from emv3_jax.errors import InputError

LONGEST_FAULT = 300  # characters; a fault quotes the value that was found, which may be long


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of a manifest that is not empty.

  Attributes:
    number: line number, from 1; only a line feed ends a line.
    values: the JSON object, without keys that are null; empty if there is a fault.
    fault: why the line cannot be used, or "".
  """

  number: int
  values: dict[str, Any]
  fault: str = ""


def read_lines(path: str | pathlib.Path) -> list[Line]:
  """Reads a file in UTF-8, or in UTF-16 with a byte order mark; lines end in LF or CR LF.

  Raises:
    InputError: the file cannot be read, or is not text.
  """
  return [_read_line(number, line) for number, line in enumerate(read_content(path).split(b"\n"), 1)
          if line.removeprefix(codecs.BOM_UTF8).strip()]


def read_content(path: str | pathlib.Path) -> bytes:
  """Reads a text file; one in UTF-16 with a byte order mark becomes UTF-8, others stay as they are.

  Raises:
    InputError: as `read_lines`.
  """
  path = pathlib.Path(path)
  try:
    mode = path.stat().st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
      raise InputError(f"Manifest {path} cannot be read: it is a device.")
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
      content = content.decode("utf-16", "surrogatepass").encode("utf-8", "surrogatepass")
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"Manifest {path} cannot be read: {error}.") from error
  if b"\0" in content[:4096]:
    raise InputError(f"Manifest {path} cannot be read: it is not text; write one JSON object a line.")
  return content


def _read_line(number: int, line: bytes) -> Line:
  try:
    values = json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
  except UnicodeDecodeError as error:
    return Line(number, {}, f"not UTF-8 at byte {error.start + 1} of the line")
  except (ValueError, RecursionError) as error:  # also raised for numbers and nesting beyond Python's limits
    return Line(number, {}, f"not JSON: {error}")
  return of_json(number, values)


def of_json(number: int, values: Any) -> Line:
  """Returns the line, or entry of a list, of a JSON value."""
  if not isinstance(values, dict):
    return Line(number, {}, f"is {type(values).__name__}, expected a JSON object")
  return Line(number, {name: value for name, value in values.items() if value is not None})


def shortened(fault: str) -> str:
  """Shortens a fault to one line: its beginning, and its end, which says what was expected."""
  fault = " ".join(fault.split())
  half = LONGEST_FAULT // 2
  return fault if len(fault) <= LONGEST_FAULT else f"{fault[:half]} ... {fault[-half:]}"


def is_text(value: Any) -> bool:
  """Returns whether a string can be written to a file or be a file name."""
  try:
    return isinstance(value, str) and b"\0" not in value.encode()
  except UnicodeEncodeError:  # it has an unpaired surrogate
    return False


def box_text(value: Any) -> Any:
  """Converts a list of four finite numbers to the text `1,2,3,4`; other values stay unchanged."""
  if not isinstance(value, list) or len(value) != 4 or not all(map(_is_finite, value)):
    return value
  return ",".join(str(whole(side)) for side in value)


def whole(value: Any) -> Any:
  """Converts 3.0 to 3, because other programs write integer columns with gaps so; other values stay unchanged."""
  return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_finite(value: Any) -> bool:
  return type(value) is int or type(value) is float and math.isfinite(value)


def repeated(names: Iterable[tuple[int, Hashable]]) -> dict[Hashable, list[int]]:
  """Returns names that occur in several lines, with the numbers of these lines, from pairs (line, name)."""
  lines: dict[Hashable, list[int]] = {}
  for number, name in names:
    lines.setdefault(name, []).append(number)
  return {name: numbers for name, numbers in lines.items() if len(numbers) > 1}
