"""The two face networks with their weights, run on the CPU.

They always run on the CPU, so that a face box is the same on every machine, and because a picture takes
milliseconds there. Each has one input size and batches of one, so that two programs are compiled.
"""

from collections.abc import Callable
import functools
import pathlib

import jax
from jaxtyping import Float32, UInt8
import numpy as np

from emv3_jax.models import blaze_face, face_mesh

ASSETS = pathlib.Path(__file__).parents[1] / "assets" / "face"


def detect(picture: UInt8[np.ndarray, "256 256 3"]
           ) -> tuple[Float32[np.ndarray, "896"], Float32[np.ndarray, "896 8 2"]]:
  """Runs the detector on one RGB picture; see `models.blaze_face.detect`."""
  scores, shapes = _run("detector", blaze_face.detect,
                        picture.astype(np.float32) / np.float32(127.5) - np.float32(1))
  return scores, shapes


def locate(picture: UInt8[np.ndarray, "192 192 3"]) -> tuple[Float32[np.ndarray, "468 3"], float]:
  """Runs the face mesh on one RGB picture; see `models.face_mesh.locate`."""
  points, presence = _run("mesh", face_mesh.locate, picture.astype(np.float32) / np.float32(255))
  return points, float(presence)


def _run(name: str, network: Callable, picture: np.ndarray) -> list[np.ndarray]:
  params, program = _load(name, network)
  outputs = jax.device_get(program(params, jax.device_put(picture[None], _device())))
  return [output[0] for output in outputs]


@functools.cache
def _load(name: str, network: Callable) -> tuple[dict, Callable]:
  """Returns the parameters by layer, on the device, and the compiled network."""
  params: dict[str, dict[str, np.ndarray]] = {}
  with np.load(ASSETS / f"{name}.npz") as stored:
    for key, array in stored.items():
      layer, parameter = key.split("/")
      params.setdefault(layer, {})[parameter] = array.astype(np.float32)
  return jax.device_put(params, _device()), jax.jit(network)


@functools.cache
def _device():
  try:
    return jax.local_devices(backend="cpu")[0]
  except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
    return jax.local_devices()[0]
