"""Parameters of the transformer from weights under their official names, for tests.

Independent of the converter: a second, shorter statement of the same mapping.
"""

import re

import jax.numpy as jnp
import numpy as np

from emv3_jax.models.network import Params, nested

RENAMES = (  # official pattern -> our path
    (r"blocks\.\d+\.(.*)", r"blocks.\1"),
    (r"(.*)ffn\.0\.(.*)", r"\1ffn.up.\2"),
    (r"(.*)ffn\.2\.(.*)", r"\1ffn.down.\2"),
    (r"(text|time)_embedding\.0\.(.*)", r"\1_embedding.up.\2"),
    (r"(text|time)_embedding\.2\.(.*)", r"\1_embedding.down.\2"),
    (r"time_projection\.1\.(.*)", r"time_projection.\1"),
    (r"img_emb\.proj\.0\.(.*)", r"image_embedding.norm_in.\1"),
    (r"img_emb\.proj\.1\.(.*)", r"image_embedding.up.\1"),
    (r"img_emb\.proj\.3\.(.*)", r"image_embedding.down.\1"),
    (r"img_emb\.proj\.4\.(.*)", r"image_embedding.norm_out.\1"),
    (r"(audio2token|audio_injection)\.(.*)", r"audio_projection.\2"),
    (r"head\.head\.(.*)", r"head.linear.\1"),
)


def _path(name: str) -> str:
  for pattern, ours in RENAMES:
    name = re.sub(f"^{pattern}$", ours, name)
  gain = "scale" if "norm" in name else "kernel"
  return re.sub(r"weight$", gain, name)


def _array(name: str, value: np.ndarray) -> np.ndarray:
  if name.endswith("modulation"):
    return value[0]
  if value.ndim == 5:
    return value.transpose(2, 3, 4, 1, 0)
  return value.T


def convert(weights: dict[str, np.ndarray], dtype=jnp.float32) -> Params:
  """Official `{name: array}` to nested parameters, layers stacked in front."""
  layers = {}
  for name in sorted(weights):
    layers.setdefault(_path(name), []).append(_array(name, weights[name]))
  stacked = {path: np.stack(values) if path.startswith("blocks.") else values[0]
             for path, values in layers.items()}
  return nested({path: jnp.asarray(value, dtype) for path, value in stacked.items()})
