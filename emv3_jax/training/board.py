"""TensorBoard's event files."""

import pathlib
import sys


def open_board(folder: pathlib.Path, step: int):
  """A tensorboardX `SummaryWriter` that goes on after `step`.

  Where PyTorch is installed tensorboardX imports it, to take its tensors too: three seconds and a
  second runtime in the process. It is kept from finding it.
  """
  absent = "torch" not in sys.modules
  if absent:
    sys.modules["torch"] = None
  try:
    from tensorboardX import SummaryWriter
  finally:
    if absent:
      del sys.modules["torch"]
  return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
