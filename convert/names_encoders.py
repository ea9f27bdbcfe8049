"""Names of the three encoders: umT5 (text), CLIP ViT-H/14 (image), wav2vec2 (audio)."""

from collections.abc import Mapping
import math

from emv3_jax.models import clip, umt5, wav2vec2
from emv3_jax.models.clip import CLIPVisionConfig
from emv3_jax.models.umt5 import UMT5Config
from emv3_jax.models.wav2vec2 import Wav2Vec2Config

from .component import Component, Layout
from .table import (
  EMBEDDING,
  GAIN,
  LINEAR,
  MATRIX,
  NORM,
  TENSOR,
  TENSOR_OF_ONE,
  TENSOR_OF_ONE_ONE,
  TENSOR_REVERSED,
  Match,
  Row,
  columns,
  third,
)

_UMT5_ATTENTION = "encoder.block.{l}.layer.0.SelfAttention"
_UMT5_FFN = "encoder.block.{l}.layer.1.DenseReluDense"

# ours, kind, official, transformers
UMT5 = (
  ("token_embedding", EMBEDDING, "token_embedding", "shared"),
  ("blocks.norm1", GAIN, "blocks.{l}.norm1", "encoder.block.{l}.layer.0.layer_norm"),
  ("blocks.attn.q", MATRIX, "blocks.{l}.attn.q", f"{_UMT5_ATTENTION}.q"),
  ("blocks.attn.k", MATRIX, "blocks.{l}.attn.k", f"{_UMT5_ATTENTION}.k"),
  ("blocks.attn.v", MATRIX, "blocks.{l}.attn.v", f"{_UMT5_ATTENTION}.v"),
  ("blocks.attn.o", MATRIX, "blocks.{l}.attn.o", f"{_UMT5_ATTENTION}.o"),
  ("blocks.attn.position_bias", EMBEDDING, "blocks.{l}.pos_embedding.embedding",
   f"{_UMT5_ATTENTION}.relative_attention_bias"),
  ("blocks.norm2", GAIN, "blocks.{l}.norm2", "encoder.block.{l}.layer.1.layer_norm"),
  ("blocks.ffn.gate", MATRIX, "blocks.{l}.ffn.gate.0", f"{_UMT5_FFN}.wi_0"),
  ("blocks.ffn.up", MATRIX, "blocks.{l}.ffn.fc1", f"{_UMT5_FFN}.wi_1"),
  ("blocks.ffn.down", MATRIX, "blocks.{l}.ffn.fc2", f"{_UMT5_FFN}.wo"),
  ("norm", GAIN, "norm", "encoder.final_layer_norm"),
)


def _umt5_sizes(match: Match, beside: Mapping) -> dict:
  return dict(
      vocab_size=match.size("token_embedding.embedding", 0),
      dim=match.size("token_embedding.embedding", 1),
      attention_dim=match.size("blocks.attn.q.kernel", -1),
      ffn_dim=match.size("blocks.ffn.up.kernel", -1),
      num_heads=match.size("blocks.attn.position_bias.embedding", -1),
      num_layers=beside.get("num_layers") if "d_model" in beside else match.layers or None,
      num_buckets=match.size("blocks.attn.position_bias.embedding", 0))


_OFFICIAL, _TRANSFORMERS = columns(UMT5)
TEXT_ENCODER = Component(
    "text_encoder",
    (Layout("official", _OFFICIAL),
     Layout("transformers", _TRANSFORMERS,
            aliases={"encoder.embed_tokens.weight": "shared.weight"},
            unused=("encoder.embed_tokens.weight", "decoder.*", "lm_head.weight",
                    "spiece_model"))),  # the tokenizer, in ComfyUI's files
    UMT5Config, _umt5_sizes, lambda config, variant: umt5.network(config).abstract)


# Queries, keys and values are one fused layer in the official names, three in transformers.
CLIP_OFFICIAL = (
  Row("patch_embedding", MATRIX, "visual.patch_embedding"),
  Row("cls_embedding", TENSOR_OF_ONE_ONE, "visual.cls_embedding"),
  Row("position_embedding", TENSOR_OF_ONE, "visual.pos_embedding"),
  Row("pre_norm", NORM, "visual.pre_norm"),
  Row("blocks.norm1", NORM, "visual.transformer.{l}.norm1"),
  Row("blocks.attn.q", third(0), "visual.transformer.{l}.attn.to_qkv"),
  Row("blocks.attn.k", third(1), "visual.transformer.{l}.attn.to_qkv"),
  Row("blocks.attn.v", third(2), "visual.transformer.{l}.attn.to_qkv"),
  Row("blocks.attn.o", LINEAR, "visual.transformer.{l}.attn.proj"),
  Row("blocks.norm2", NORM, "visual.transformer.{l}.norm2"),
  Row("blocks.ffn.up", LINEAR, "visual.transformer.{l}.mlp.0"),
  Row("blocks.ffn.down", LINEAR, "visual.transformer.{l}.mlp.2"),
)
_CLIP_LAYER = "vision_model.encoder.layers.{l}"
CLIP_TRANSFORMERS = (
  Row("patch_embedding", MATRIX, "vision_model.embeddings.patch_embedding"),
  Row("cls_embedding", TENSOR, "vision_model.embeddings.class_embedding"),
  Row("position_embedding", TENSOR, "vision_model.embeddings.position_embedding.weight"),
  Row("pre_norm", NORM, "vision_model.pre_layrnorm"),  # sic
  Row("blocks.norm1", NORM, f"{_CLIP_LAYER}.layer_norm1"),
  Row("blocks.attn.q", LINEAR, f"{_CLIP_LAYER}.self_attn.q_proj"),
  Row("blocks.attn.k", LINEAR, f"{_CLIP_LAYER}.self_attn.k_proj"),
  Row("blocks.attn.v", LINEAR, f"{_CLIP_LAYER}.self_attn.v_proj"),
  Row("blocks.attn.o", LINEAR, f"{_CLIP_LAYER}.self_attn.out_proj"),
  Row("blocks.norm2", NORM, f"{_CLIP_LAYER}.layer_norm2"),
  Row("blocks.ffn.up", LINEAR, f"{_CLIP_LAYER}.mlp.fc1"),
  Row("blocks.ffn.down", LINEAR, f"{_CLIP_LAYER}.mlp.fc2"),
)


def _clip_sizes(match: Match, beside: Mapping) -> dict:
  """Infers sizes; the image size follows from the position table, one class token and a square of patches."""
  beside = beside.get("vision_config", beside)
  if "patch_size" not in beside or "num_hidden_layers" not in beside:
    beside = {}
  dim, mlp = match.size("pre_norm.scale", -1), match.size("blocks.ffn.up.kernel", -1)
  patch, tokens = match.size("patch_embedding.kernel", 0), match.size("position_embedding", 0)
  return dict(
      dim=dim,
      num_layers=match.layers or None,
      num_heads=beside.get("num_attention_heads"),
      mlp_ratio=mlp // dim if mlp and dim else None,
      image_size=patch * math.isqrt(tokens - 1) if patch and tokens else None,
      patch_size=patch)


IMAGE_ENCODER = Component(
    "image_encoder",
    # The network ends before the last block, as the reference runs it.
    (Layout("official", CLIP_OFFICIAL,
            unused=("textual.*", "log_scale", "visual.head", "visual.post_norm.*"),
            last_block="visual.post_norm.weight", last_block_pattern="visual.transformer.{l}."),
     Layout("transformers", CLIP_TRANSFORMERS,
            dropped="vision_model.",  # by a CLIPVisionModel of transformers 5 on its own
            unused=("text_model.*", "logit_scale", "visual_projection.weight",
                    "text_projection.weight", "vision_model.post_layernorm.*",
                    "vision_model.embeddings.position_ids"),
            last_block="vision_model.post_layernorm.weight",
            last_block_pattern="vision_model.encoder.layers.{l}.")),
    CLIPVisionConfig, _clip_sizes, lambda config, variant: clip.network(config).abstract,
    head_dim=80)


_W2V_LAYER = "encoder.layers.{l}"
WAV2VEC2 = (
  *(Row(f"convs.conv{i}", MATRIX, f"feature_extractor.conv_layers.{i}.conv") for i in range(7)),
  Row("convs.norm", NORM, "feature_extractor.conv_layers.0.layer_norm"),
  Row("feature_norm", NORM, "feature_projection.layer_norm"),
  Row("feature_projection", LINEAR, "feature_projection.projection"),
  Row("position_conv.gain", TENSOR_REVERSED, "encoder.pos_conv_embed.conv.weight_g"),
  Row("position_conv.direction", TENSOR_REVERSED, "encoder.pos_conv_embed.conv.weight_v"),
  Row("position_conv.bias", TENSOR, "encoder.pos_conv_embed.conv.bias"),
  Row("norm", NORM, "encoder.layer_norm"),
  Row("blocks.attn.q", LINEAR, f"{_W2V_LAYER}.attention.q_proj"),
  Row("blocks.attn.k", LINEAR, f"{_W2V_LAYER}.attention.k_proj"),
  Row("blocks.attn.v", LINEAR, f"{_W2V_LAYER}.attention.v_proj"),
  Row("blocks.attn.o", LINEAR, f"{_W2V_LAYER}.attention.out_proj"),
  Row("blocks.norm1", NORM, f"{_W2V_LAYER}.layer_norm"),
  Row("blocks.ffn.up", LINEAR, f"{_W2V_LAYER}.feed_forward.intermediate_dense"),
  Row("blocks.ffn.down", LINEAR, f"{_W2V_LAYER}.feed_forward.output_dense"),
  Row("blocks.norm2", NORM, f"{_W2V_LAYER}.final_layer_norm"),
)


def _wav2vec2_sizes(match: Match, beside: Mapping) -> dict:
  """Infers sizes; the head size and the strides are the released ones unless config.json has them."""
  if "conv_stride" not in beside:
    beside = {}
  dim = match.size("norm.scale", -1)
  kernels = [match.size(f"convs.conv{i}.kernel", 0) for i in range(7)]
  group = match.size("position_conv.direction", 1)
  return dict(
      dim=dim,
      ffn_dim=match.size("blocks.ffn.up.kernel", -1),
      num_layers=beside.get("num_hidden_layers", match.layers or None),
      num_heads=beside.get("num_attention_heads"),
      conv_dim=match.size("convs.conv0.kernel", -1),
      conv_kernels=tuple(kernels) if all(kernels) else None,
      conv_strides=tuple(beside["conv_stride"]) if beside else None,
      position_kernel=match.size("position_conv.direction", 0),
      position_groups=dim // group if dim and group else None)


AUDIO_ENCODER = Component(
    "audio_encoder",
    (Layout("official", WAV2VEC2, prefixes=("wav2vec2.",),
            # torch >= 2.0 spells weight norm differently
            aliases={"encoder.pos_conv_embed.conv.parametrizations.weight.original0":
                         "encoder.pos_conv_embed.conv.weight_g",
                     "encoder.pos_conv_embed.conv.parametrizations.weight.original1":
                         "encoder.pos_conv_embed.conv.weight_v"},
            unused=("masked_spec_embed", "lm_head.*", "quantizer.*", "project_hid.*",
                    "project_q.*")),),
    Wav2Vec2Config, _wav2vec2_sizes, lambda config, variant: wav2vec2.network(config).abstract,
    head_dim=64)
