"""Names of the video transformer: EchoMimicV3 preview and flash, and their base Wan2.1-Fun-InP."""

from collections.abc import Mapping
import functools

from emv3_jax.models import transformer
from emv3_jax.models.network import Params, named_leaves, nested
from emv3_jax.models.transformer import TransformerConfig

from .component import Component, Layout
from .table import GAIN, LINEAR, MATRIX, NORM, TENSOR_OF_ONE, Match, Row, columns

# ours, kind, official, diffusers. The names norm2 and norm3 are swapped in diffusers.
WAN = (
  ("patch_embedding", LINEAR, "patch_embedding", "patch_embedding"),
  ("text_embedding.up", LINEAR, "text_embedding.0",
   "condition_embedder.text_embedder.linear_1"),
  ("text_embedding.down", LINEAR, "text_embedding.2",
   "condition_embedder.text_embedder.linear_2"),
  ("time_embedding.up", LINEAR, "time_embedding.0",
   "condition_embedder.time_embedder.linear_1"),
  ("time_embedding.down", LINEAR, "time_embedding.2",
   "condition_embedder.time_embedder.linear_2"),
  ("time_projection", LINEAR, "time_projection.1", "condition_embedder.time_proj"),
  ("image_embedding.norm_in", NORM, "img_emb.proj.0",
   "condition_embedder.image_embedder.norm1"),
  ("image_embedding.up", LINEAR, "img_emb.proj.1",
   "condition_embedder.image_embedder.ff.net.0.proj"),
  ("image_embedding.down", LINEAR, "img_emb.proj.3",
   "condition_embedder.image_embedder.ff.net.2"),
  ("image_embedding.norm_out", NORM, "img_emb.proj.4",
   "condition_embedder.image_embedder.norm2"),

  ("blocks.modulation", TENSOR_OF_ONE, "blocks.{l}.modulation", "blocks.{l}.scale_shift_table"),
  ("blocks.self_attn.q", LINEAR, "blocks.{l}.self_attn.q", "blocks.{l}.attn1.to_q"),
  ("blocks.self_attn.k", LINEAR, "blocks.{l}.self_attn.k", "blocks.{l}.attn1.to_k"),
  ("blocks.self_attn.v", LINEAR, "blocks.{l}.self_attn.v", "blocks.{l}.attn1.to_v"),
  ("blocks.self_attn.o", LINEAR, "blocks.{l}.self_attn.o", "blocks.{l}.attn1.to_out.0"),
  ("blocks.self_attn.norm_q", GAIN, "blocks.{l}.self_attn.norm_q", "blocks.{l}.attn1.norm_q"),
  ("blocks.self_attn.norm_k", GAIN, "blocks.{l}.self_attn.norm_k", "blocks.{l}.attn1.norm_k"),
  ("blocks.norm3", NORM, "blocks.{l}.norm3", "blocks.{l}.norm2"),
  ("blocks.cross_attn.q", LINEAR, "blocks.{l}.cross_attn.q", "blocks.{l}.attn2.to_q"),
  ("blocks.cross_attn.k", LINEAR, "blocks.{l}.cross_attn.k", "blocks.{l}.attn2.to_k"),
  ("blocks.cross_attn.v", LINEAR, "blocks.{l}.cross_attn.v", "blocks.{l}.attn2.to_v"),
  ("blocks.cross_attn.o", LINEAR, "blocks.{l}.cross_attn.o", "blocks.{l}.attn2.to_out.0"),
  ("blocks.cross_attn.norm_q", GAIN, "blocks.{l}.cross_attn.norm_q", "blocks.{l}.attn2.norm_q"),
  ("blocks.cross_attn.norm_k", GAIN, "blocks.{l}.cross_attn.norm_k", "blocks.{l}.attn2.norm_k"),
  ("blocks.cross_attn.k_img", LINEAR, "blocks.{l}.cross_attn.k_img",
   "blocks.{l}.attn2.add_k_proj"),
  ("blocks.cross_attn.v_img", LINEAR, "blocks.{l}.cross_attn.v_img",
   "blocks.{l}.attn2.add_v_proj"),
  ("blocks.cross_attn.norm_k_img", GAIN, "blocks.{l}.cross_attn.norm_k_img",
   "blocks.{l}.attn2.norm_added_k"),
  ("blocks.ffn.up", LINEAR, "blocks.{l}.ffn.0", "blocks.{l}.ffn.net.0.proj"),
  ("blocks.ffn.down", LINEAR, "blocks.{l}.ffn.2", "blocks.{l}.ffn.net.2"),

  ("head.modulation", TENSOR_OF_ONE, "head.modulation", "scale_shift_table"),
  ("head.linear", LINEAR, "head.head", "proj_out"),
)

# Audio is in EchoMimicV3's own files only; preview has no biases there.
PREVIEW = (
  Row("audio_projection.proj", MATRIX, "audio2token.proj"),
  Row("audio_projection.norm", NORM, "audio2token.norm"),
  Row("blocks.cross_attn.k_audio", MATRIX, "blocks.{l}.cross_attn.k_audio"),
  Row("blocks.cross_attn.v_audio", MATRIX, "blocks.{l}.cross_attn.v_audio"),
  Row("blocks.cross_attn.norm_k_audio", GAIN, "blocks.{l}.cross_attn.norm_k_audio"),
)
FLASH = (
  Row("audio_projection.proj1", LINEAR, "audio_injection.proj1"),
  Row("audio_projection.proj1_vf", LINEAR, "audio_injection.proj1_vf"),
  Row("audio_projection.proj2", LINEAR, "audio_injection.proj2"),
  Row("audio_projection.proj3", LINEAR, "audio_injection.proj3"),
  Row("audio_projection.norm", NORM, "audio_injection.norm"),
  Row("blocks.cross_attn.q_audio", LINEAR, "blocks.{l}.cross_attn.q_audio"),
  Row("blocks.cross_attn.k_audio", LINEAR, "blocks.{l}.cross_attn.k_audio"),
  Row("blocks.cross_attn.v_audio", LINEAR, "blocks.{l}.cross_attn.v_audio"),
  Row("blocks.cross_attn.norm_k_audio", GAIN, "blocks.{l}.cross_attn.norm_k_audio"),
)

_OFFICIAL, _DIFFUSERS = columns(WAN)
LAYOUTS = (
  Layout("official", (*_OFFICIAL, *PREVIEW), "preview"),
  Layout("official", (*_OFFICIAL, *FLASH), "flash"),
  Layout("official", _OFFICIAL, "base"),
  Layout("diffusers", _DIFFUSERS, "base"),
)


def _sizes(match: Match, beside: Mapping) -> dict:
  """Infers sizes; shapes do not determine the head size, the text length, and the split of flash's audio features."""
  if not beside.keys() & {"ffn_dim", "attention_head_dim"}:  # the config.json is of another network in the same folder
    beside = {}
  dim, windows = match.size("patch_embedding.bias", -1), match.size("audio_projection.proj1.kernel", 0)
  flash_tokens = match.size("audio_projection.proj3.bias", -1)
  released = TransformerConfig()
  sizes = dict(
      dim=dim,
      ffn_dim=match.size("blocks.ffn.up.kernel", -1),
      num_heads=beside.get("num_heads", beside.get("num_attention_heads")),
      num_layers=beside.get("num_layers", match.layers or None),
      in_channels=match.size("patch_embedding.kernel", -2),
      out_channels=(match.size("head.linear.bias", -1) or 0) // 4 or None,
      freq_dim=match.size("time_embedding.up.kernel", -2),
      text_dim=match.size("text_embedding.up.kernel", -2),
      text_tokens=beside.get("text_len"),
      image_dim=match.size("image_embedding.norm_in.scale", -1),
      audio_dim=match.size("audio_projection.proj.kernel", -2),
      audio_hidden=match.size("audio_projection.proj2.bias", -1),
      audio_tokens=flash_tokens // dim if flash_tokens and dim else None)
  if windows is not None:  # 5 frames x layers x channels
    sizes["audio_dim"] = released.audio_dim if windows % (5 * released.audio_dim) == 0 else None
    sizes["audio_layers"] = windows // (5 * released.audio_dim) or None
  return sizes


@functools.cache
def _abstract(config: TransformerConfig, variant: str | None) -> Params:
  """Returns the network's abstract parameters; the base model has those of preview without audio."""
  abstract = transformer.network(config).abstract
  if variant != "base":
    return abstract
  return nested({name: leaf for name, leaf in named_leaves(abstract).items()
                 if "audio" not in name})


COMPONENT = Component("transformer", LAYOUTS, TransformerConfig, _sizes, _abstract, head_dim=128)
