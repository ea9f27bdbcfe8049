"""Parameters of the VAE from weights under their official names, for tests.

Independent of the converter: a second, shorter statement of the same mapping.
"""

import re

import numpy as np

from emv3_jax.models.network import Params, nested

RENAMED = (  # (pattern of the official name, our name), applied in turn
    (r"^model\.", ""),
    (r"^conv1\b", "to_moments"),
    (r"^conv2\b", "from_latents"),
    (r"coder\.conv1\b", "coder.conv_in"),
    (r"head\.0\b", "norm_out"),
    (r"head\.2\b", "conv_out"),
    (r"middle\.0\b", "middle.block1"),
    (r"middle\.1\b", "middle.attention"),
    (r"middle\.2\b", "middle.block2"),
    (r"to_qkv\b", "qkv"),
    (r"resample\.1\b", "resample.conv"),
    (r"(\d+)\.time_conv\b", r"\1.resample.time_conv"),
    (r"residual\.0\b", "norm1"),
    (r"residual\.2\b", "conv1"),
    (r"residual\.3\b", "norm2"),
    (r"residual\.6\b", "conv2"),
    (r"gamma$", "scale"),
    (r"weight$", "kernel"),
)


def _in_stages(match: re.Match) -> str:
  """`downsamples.7.` counts blocks and steps in one row: three a stage, four in `upsamples`."""
  stage, index = divmod(int(match[2]), {"down": 3, "up": 4}[match[1]])
  is_step = match[3].startswith("resample")
  return f"stages.{stage}." + ("" if is_step else f"blocks.{index}.") + match[3]


def _ours(name: str, array: np.ndarray) -> np.ndarray:
  if name.endswith(".scale"):
    return array.reshape(-1)
  if not name.endswith(".kernel"):
    return array
  array = np.moveaxis(array, (0, 1), (-1, -2))  # [out, in, ..] to [.., in, out]
  is_linear = "conv" not in name
  return array.reshape(array.shape[-2:]) if is_linear else array


def convert(official: dict[str, np.ndarray]) -> Params:
  """Nested parameters of the VAE with two blocks a stage."""
  named = {}
  for name, array in official.items():
    for pattern, ours in RENAMED:
      name = re.sub(pattern, ours, name)
    name = re.sub(r"(down|up)samples\.(\d+)\.(.*)", _in_stages, name)
    named[name] = _ours(name, array)
  return nested(named)
