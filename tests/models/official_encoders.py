"""Parameters of the three encoders from weights under their official names, for tests.

Independent of the converter: a second, shorter statement of the same mapping.
"""

import re

import jax.numpy as jnp
import numpy as np

from emv3_jax.models.network import Params, nested
from emv3_jax.models.precision import FLOAT32, Precision

UMT5 = {
    "token_embedding.embedding": "token_embedding.weight",
    "norm.scale": "norm.weight",
    "blocks.norm1.scale": "blocks.N.norm1.weight",
    "blocks.norm2.scale": "blocks.N.norm2.weight",
    **{f"blocks.attn.{x}.kernel": f"blocks.N.attn.{x}.weight" for x in "qkvo"},
    "blocks.attn.position_bias.embedding": "blocks.N.pos_embedding.embedding.weight",
    "blocks.ffn.gate.kernel": "blocks.N.ffn.gate.0.weight",
    "blocks.ffn.up.kernel": "blocks.N.ffn.fc1.weight",
    "blocks.ffn.down.kernel": "blocks.N.ffn.fc2.weight",
}


def _with_bias(ours: str, official: str) -> dict[str, str]:
  gain = "scale" if "norm" in ours else "kernel"
  return {f"{ours}.{gain}": f"{official}.weight", f"{ours}.bias": f"{official}.bias"}


CLIP = {
    "cls_embedding": "cls_embedding",
    "position_embedding": "pos_embedding",
    "patch_embedding.kernel": "patch_embedding.weight",
    **_with_bias("pre_norm", "pre_norm"),
    **_with_bias("blocks.norm1", "transformer.N.norm1"),
    **_with_bias("blocks.norm2", "transformer.N.norm2"),
    **_with_bias("blocks.attn.q", "transformer.N.attn.q"),
    **_with_bias("blocks.attn.k", "transformer.N.attn.k"),
    **_with_bias("blocks.attn.v", "transformer.N.attn.v"),
    **_with_bias("blocks.attn.o", "transformer.N.attn.proj"),
    **_with_bias("blocks.ffn.up", "transformer.N.mlp.0"),
    **_with_bias("blocks.ffn.down", "transformer.N.mlp.2"),
}

WAV2VEC2 = {
    **{f"convs.conv{i}.kernel": f"feature_extractor.conv_layers.{i}.conv.weight" for i in range(7)},
    **_with_bias("convs.norm", "feature_extractor.conv_layers.0.layer_norm"),
    **_with_bias("feature_norm", "feature_projection.layer_norm"),
    **_with_bias("feature_projection", "feature_projection.projection"),
    "position_conv.gain": "encoder.pos_conv_embed.conv.weight_g",
    "position_conv.direction": "encoder.pos_conv_embed.conv.weight_v",
    "position_conv.bias": "encoder.pos_conv_embed.conv.bias",
    **_with_bias("norm", "encoder.layer_norm"),
    **_with_bias("blocks.attn.q", "encoder.layers.N.attention.q_proj"),
    **_with_bias("blocks.attn.k", "encoder.layers.N.attention.k_proj"),
    **_with_bias("blocks.attn.v", "encoder.layers.N.attention.v_proj"),
    **_with_bias("blocks.attn.o", "encoder.layers.N.attention.out_proj"),
    **_with_bias("blocks.norm1", "encoder.layers.N.layer_norm"),
    **_with_bias("blocks.ffn.up", "encoder.layers.N.feed_forward.intermediate_dense"),
    **_with_bias("blocks.ffn.down", "encoder.layers.N.feed_forward.output_dense"),
    **_with_bias("blocks.norm2", "encoder.layers.N.final_layer_norm"),
}


def _ours(name: str, array: np.ndarray) -> np.ndarray:
  """Kernels [out, in, ..] become [.., in, out]; CLIP's tables lose their leading ones."""
  if name.endswith((".kernel", ".gain", ".direction")):
    return np.moveaxis(array, (0, 1), (-1, -2))
  return array.reshape(array.shape[-2:]).squeeze() if name.endswith("_embedding") else array


def convert(table: dict[str, str], official: dict[str, np.ndarray], num_layers: int,
            precision: Precision = FLOAT32) -> Params:
  """Nested parameters from `official` by a table of this module, `N` being the layer."""

  def collect(ours, pattern):
    if "N" not in pattern.split("."):
      return _ours(ours, official[pattern])
    names = [re.sub(r"\bN\b", str(i), pattern) for i in range(num_layers)]
    return np.stack([_ours(ours, official[name]) for name in names])

  return nested({ours: jnp.asarray(collect(ours, pattern), precision.param_dtype)
                 for ours, pattern in table.items()})


def clip_visual(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The visual tower's weights without prefix, `to_qkv` cut into q, k and v."""
  visual = {name.split("visual.")[1]: w for name, w in weights.items() if "visual." in name}
  for name in [name for name in visual if ".to_qkv." in name]:
    for part, w in zip("qkv", np.split(visual.pop(name), 3), strict=True):
      visual[name.replace("to_qkv", part)] = w
  return visual
