import pathlib

import numpy as np
from PIL import Image
import pytest

HERE = pathlib.Path(__file__).parent
FACE = 52, 190, 76, 182  # (y1, y2, x1, x2) by eye: hair line to chin, ear to ear


def read_astronaut() -> np.ndarray:
  """The portrait, uint8 [256, 256, 3]."""
  return np.asarray(Image.open(HERE / "astronaut.png"))


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
  """A portrait, uint8 [256, 256, 3]; its face box is `FACE`."""
  return read_astronaut()
