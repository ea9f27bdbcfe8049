"""The face mesh: 468 points of a face in a picture of 192x192 pixels.

Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs", 2019.
"""

from collections.abc import Mapping

import jax
from jaxtyping import Float32

from emv3_jax.models.blaze_layers import Params, activate, conv, down, residual, residuals

SIZE = 192  # pixels, rows and columns of the input
POINTS = 468
STAGES = 5
BRANCHES = ("points", "presence")


def locate(params: Mapping[str, Params], pictures: Float32[jax.Array, "b 192 192 3"]
           ) -> tuple[Float32[jax.Array, "b 468 3"], Float32[jax.Array, "b"]]:
  """Computes the points of a face and the score of its presence.

  Args:
    params: parameters by layer.
    pictures: RGB from 0 to 1; an upright face in the middle, 2/3 of the picture wide.

  Returns:
    points (x, y, z) in pixels of the picture, z towards the back; scores before the sigmoid.
  """
  x = activate(conv(pictures, params["stem"], 2), params["stem"])
  for stage in range(STAGES):
    x = residuals(x, params[f"stage{stage}"])
    if stage < STAGES - 1:
      x = down(x, params[f"down{stage}"])
  outputs = {}
  for name in BRANCHES:
    y = down(x, params[f"{name}.down"])
    if name == "points":
      y = residuals(y, params["points.blocks"])
    y = activate(conv(y, params[f"{name}.narrow"]), params[f"{name}.narrow"])
    y = residual(y, params[f"{name}.block"])
    outputs[name] = conv(y, params[f"{name}.out"], padding="VALID").reshape(len(pictures), -1)
  return outputs["points"].reshape(-1, POINTS, 3), outputs["presence"][:, 0]
