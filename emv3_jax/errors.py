"""What ends a program from outside: mistakes, and being asked to stop."""

from collections.abc import Sequence
import difflib


class InputError(ValueError):
  """A user, a file or a checkpoint gave something that cannot be used.

  The message is one or two lines: the thing, what was found, what was wanted, what to do.
  Command lines print it to stderr without a traceback and exit with code 2.
  """


class Stopped(KeyboardInterrupt):
  """The program was asked to stop; like Ctrl-C this passes every `except Exception`.

  The message says how, or where: "by SIGTERM". Command lines exit with code 75: what was asked for
  is not done, the same command goes on.
  """


def nearest(name: str, names: Sequence[str]) -> str:
  """Returns a hint for a mistyped name: `did you mean 'steps'?`, or the list of all names."""
  close = difflib.get_close_matches(name, names, n=1)
  return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(names))}."
