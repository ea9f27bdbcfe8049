"""How the commands and shipped configs are to be written here: in a checkout, or installed from a wheel."""

import pathlib
import sys

# Of an installation -> of a checkout, at its root.
_COMMANDS = {
    "emv3-sample": "python run_sample.py",
    "emv3-train": "python run_train.py",
    "emv3-convert": "python -m convert",
    "emv3-prepare": "python -m emv3_jax.preparation",
}
_CHECKOUT = pathlib.Path(__file__).parents[2] / "run_sample.py"


def in_checkout() -> bool:
  """Whether this package lies in a checkout, and no installed command was called."""
  return _CHECKOUT.is_file() and pathlib.Path(sys.argv[0]).name not in _COMMANDS


def as_called(text: str) -> str:
  """A text with commands as installed, e.g. `emv3-sample`, with them as they are called here."""
  if in_checkout():
    for installed, words in _COMMANDS.items():
      text = text.replace(installed, words)
  return text


def config_name(name: str) -> str:
  """A shipped config as --config takes it: `tiny`, in a checkout the file `configs/tiny.py`."""
  return f"configs/{name}.py" if in_checkout() else name
