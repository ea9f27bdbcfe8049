"""BlazeFace, a detector of faces in pictures of 256x256 pixels.

Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", 2019; the variant for
back cameras. Each anchor, a point of one of two grids, gives a score, a box and six points of the face.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Float32
import numpy as np

from emv3_jax.models.blaze_layers import Params, activate, conv, down, residuals, separable

SIZE = 256  # pixels, rows and columns of the input
GRIDS = ((16, 2), (32, 6))  # (pixels from anchor to anchor, anchors at each point)
ANCHORS = sum((SIZE // stride) ** 2 * count for stride, count in GRIDS)
STAGES = 4
POINTS = 6  # eyes (image left, image right), tip of the nose, mouth, ears (image left, image right)


def detect(params: Mapping[str, Params], pictures: Float32[jax.Array, "b 256 256 3"]
           ) -> tuple[Float32[jax.Array, "b 896"], Float32[jax.Array, "b 896 8 2"]]:
  """Computes scores and shapes at the anchors.

  Args:
    params: parameters by layer.
    pictures: RGB from -1 to 1.

  Returns:
    scores before the sigmoid; shapes: centre and size (x, y) of the box, then six points, in pixels. Centre
    and points are relative to the anchor.
  """
  x = activate(conv(pictures, params["stem"], 2), params["stem"])
  for stage in range(STAGES):
    x = residuals(x, params[f"stage{stage}"])
    if stage < STAGES - 1:
      x = down(x, params[f"down{stage}"])
  features = x, jax.nn.relu(separable(x, params["down3"], 2))
  batch = len(pictures)
  scores = [conv(x, params[f"score{grid}"]).reshape(batch, -1) for grid, x in enumerate(features)]
  shapes = [conv(x, params[f"shape{grid}"]).reshape(batch, -1, 2 + POINTS, 2)
            for grid, x in enumerate(features)]
  return jnp.concatenate(scores, 1), jnp.concatenate(shapes, 1)


def anchors() -> Float32[np.ndarray, "896 2"]:
  """Returns the anchors (x, y) in pixels of the input, in the order of the outputs of `detect`."""
  found = []
  for stride, count in GRIDS:
    y, x = np.mgrid[:SIZE // stride, :SIZE // stride]
    points = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride
    found.append(np.repeat(points, count, axis=0))
  return np.concatenate(found).astype(np.float32)
