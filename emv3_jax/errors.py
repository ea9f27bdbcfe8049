"""The one exception that stands for a mistake outside the program."""


class InputError(ValueError):
  """A user, a file or a checkpoint gave something that cannot be used.

  The message is one or two lines: the thing, what was found, what was wanted, what to do.
  Command lines print it to stderr without a traceback and exit with code 2.
  """
