"""Processes that are ended after a time, with the last that they said."""

from collections.abc import Sequence
import json
import os
import pathlib
import signal
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
_TAIL = 3  # lines of stderr that a failure keeps


def last_result(command: Sequence[str], cap: float, environment: dict[str, str]) -> dict:
  """Runs a command that writes JSON objects line by line.

  Args:
    command: program and arguments, run in the root of the checkout.
    cap: seconds after which it is killed with all processes that it started.
    environment: variables in addition to those of this process.

  Returns:
    The last object; with `stopped` where it was killed, with `failed` where it ended with an error.
  """
  with tempfile.TemporaryDirectory() as folder:
    out, errors = (pathlib.Path(folder, name) for name in ("out", "errors"))
    with out.open("w") as stdout, errors.open("w") as stderr:
      process = subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=stderr, start_new_session=True,
                                 env=os.environ | environment)
      try:
        code = process.wait(cap)
      except subprocess.TimeoutExpired:
        code = None
      finally:
        _kill_group(process)
    result = _last_object(out.read_text())
    if code is None:
      return result | {"stopped": f"took more than {cap:.0f} s"}
    if code and "failed" not in result:
      lines = errors.read_text(errors="replace").splitlines()
      return result | {"failed": " | ".join([f"exit code {code}", *lines[-_TAIL:]])}
    return result


def _kill_group(process: subprocess.Popen) -> None:
  """Ends the process and those that it started; none of them is left holding the device."""
  try:
    os.killpg(process.pid, signal.SIGKILL)
  except ProcessLookupError:
    pass
  process.wait()


def _last_object(text: str) -> dict:
  """The last line that is JSON; a line that was cut by the end of the process is not."""
  for line in reversed(text.splitlines()):
    try:
      found = json.loads(line)
    except ValueError:
      continue
    if isinstance(found, dict):
      return found
  return {}
