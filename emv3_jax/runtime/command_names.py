"""Names of the commands and shipped configs, in a checkout or in an installation from a wheel."""

import pathlib
import sys

# Command of an installation -> command in the root folder of a checkout.
_COMMANDS = {
    "emv3-sample": "python run_sample.py",
    "emv3-train": "python run_train.py",
    "emv3-convert": "python -m convert",
    "emv3-prepare": "python -m emv3_jax.preparation",
}
_CHECKOUT = pathlib.Path(__file__).parents[2] / "run_sample.py"


def in_checkout() -> bool:
  """Returns whether the package is used from a checkout and no installed command was called."""
  return _CHECKOUT.is_file() and pathlib.Path(sys.argv[0]).name not in _COMMANDS


def as_called(text: str) -> str:
  """Replaces installed commands in a text, e.g. `emv3-sample`, by those of this environment."""
  if in_checkout():
    for installed, words in _COMMANDS.items():
      text = text.replace(installed, words)
  return text


def config_name(name: str) -> str:
  """Returns the value of --config for a shipped config: `tiny`, in a checkout `configs/tiny.py`."""
  return f"configs/{name}.py" if in_checkout() else name
