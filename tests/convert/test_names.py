"""The name tables against the names and shapes of every released checkpoint, at full size."""

import numpy as np
import pytest

from convert import plan as plan_lib
from convert.sources import Checkpoint
from convert.table import (
  CONV,
  GAMMA_2D,
  GAMMA_3D,
  LINEAR,
  POINTWISE_2D,
  POINTWISE_3D,
  TENSOR_OF_ONE,
  Row,
  match,
  third,
)
from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import LazyArray
from tests.convert import released_names

# checkpoint: component, variant, parameters that the network has (those of compatibility tables)
RELEASED = {
    "preview_transformer": ("transformer", "preview", 1_707_215_168),
    "flash_transformer": ("transformer", "flash", 1_863_772_992),
    "wan_fun_inp_base_transformer": ("transformer", "base", 1_564_428_608),
    "wan_vae": ("vae", None, 126_892_531),
    "umt5_xxl_encoder": ("text_encoder", None, 5_680_910_336),
    "clip_xlm_roberta_vit_h_14": ("image_encoder", None, 611_086_080),
    "clip_visual_used": ("image_encoder", None, 611_086_080),
    "wav2vec2_base_model": ("audio_encoder", None, 94_371_712 - 768),
    "wav2vec2_base_960h_checkpoint_ForCTC": ("audio_encoder", None, 94_371_712 - 768),
    "chinese_wav2vec2_base_checkpoint_ForPreTraining": ("audio_encoder", None, 94_371_712 - 768),
}
UNUSED = {
    "clip_xlm_roberta_vit_h_14": {"textual.*": 391, "log_scale": 1, "visual.head": 1,
                                  "visual.post_norm.*": 2, "visual.transformer.31.*": 12},
    "wav2vec2_base_model": {"masked_spec_embed": 1},
    "wav2vec2_base_960h_checkpoint_ForCTC": {"masked_spec_embed": 1, "lm_head.*": 2},
    "chinese_wav2vec2_base_checkpoint_ForPreTraining": {
        "masked_spec_embed": 1, "quantizer.*": 3, "project_hid.*": 2, "project_q.*": 2},
}


@pytest.fixture
def identify(monkeypatch):
  """identify(shapes) -> Plan, as if a file had these names, shapes and dtypes."""
  def run(shapes, **options):
    tensors = {name: LazyArray(shape, np.dtype(dtype), None)
               for name, (shape, dtype) in shapes.items()}
    monkeypatch.setattr(plan_lib, "open_tensors", lambda files, notes: tensors)
    return plan_lib.identify(Checkpoint("test", (), options.pop("beside", {})), **options)

  return run


@pytest.mark.parametrize("name", RELEASED)
def test_every_released_name_and_shape_is_explained(identify, name):
  plan = identify(released_names.checkpoint(name))
  component, variant, parameters = RELEASED[name]
  assert (plan.component.name, plan.layout.variant) == (component, variant)
  assert plan.layout.name == "official"
  assert plan.problems == {"missing": (), "unexpected": (), "misshapen": ()}
  assert plan.num_params == parameters
  assert plan.unused == UNUSED.get(name, {})


def test_a_map_to_other_names_leads_to_the_same_parameters(identify):
  for name, names_map, layout in (
      ("wan_fun_inp_base_transformer", "diffusers_transformer", "diffusers"),
      ("wan_vae", "diffusers_vae", "diffusers"), ("umt5_xxl_encoder", "transformers_umt5",
                                                  "transformers")):
    official = released_names.checkpoint(name)
    renamed = released_names.names_map(names_map)
    one = identify(official)
    other = identify({renamed[key]: value for key, value in official.items()})
    assert (other.component, other.layout.name) == (one.component, layout)
    assert other.problems == {"missing": (), "unexpected": (), "misshapen": ()}
    for ours, leaf in one.leaves.items():
      assert [renamed[source] for source in leaf.names(24)] == other.leaves[ours].names(24), ours


def test_transformers_clip_is_explained(identify):
  shapes = {}
  for name, (shape, dtype) in released_names.checkpoint("clip_xlm_roberta_vit_h_14").items():
    if name.startswith("textual") or name in ("log_scale", "visual.head"):
      continue
    name = name.replace("visual.transformer.", "vision_model.encoder.layers.")
    for old, new in (("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("mlp.0", "mlp.fc1"),
                     ("mlp.2", "mlp.fc2"), ("attn.proj", "self_attn.out_proj"),
                     ("visual.pre_norm", "vision_model.pre_layrnorm"),
                     ("visual.post_norm", "vision_model.post_layernorm"),
                     ("visual.patch", "vision_model.embeddings.patch"),
                     ("visual.cls_embedding", "vision_model.embeddings.class_embedding"),
                     ("visual.pos_embedding", "vision_model.embeddings.position_embedding.weight")):
      name = name.replace(old, new)
    if "attn.to_qkv" in name:
      for part in ("q_proj", "k_proj", "v_proj"):
        shapes[name.replace("attn.to_qkv", f"self_attn.{part}")] = (
            (shape[0] // 3, *shape[1:]), dtype)
    else:
      shapes[name] = (tuple(size for size in shape if size != 1) if "embeddings" in name
                      and "patch" not in name else shape, dtype)
  plan = identify(shapes)
  assert (plan.component.name, plan.layout.name) == ("image_encoder", "transformers")
  assert plan.problems == {"missing": (), "unexpected": (), "misshapen": ()}
  assert plan.config.num_layers == 31 and plan.unused["vision_model.encoder.layers.31.*"] == 16


def test_other_spellings_are_known(identify):
  shapes = released_names.checkpoint("wav2vec2_base_model")
  newer = {name.replace("conv.weight_g", "conv.parametrizations.weight.original0")
               .replace("conv.weight_v", "conv.parametrizations.weight.original1"): value
           for name, value in shapes.items()}
  assert newer.keys() != shapes.keys()
  assert not any(identify(newer).problems.values())
  wrapped = {f"model.{name}": value for name, value in released_names.checkpoint("wan_vae").items()}
  assert not any(identify(wrapped).problems.values())


def test_a_lost_layer_is_missing_and_not_a_smaller_model(identify):
  shapes = {name: value for name, value in released_names.checkpoint("umt5_xxl_encoder").items()
            if not name.startswith("blocks.23.")}
  plan = identify(shapes)
  assert len(plan.missing) == 10 and "blocks.23.attn.q.weight [4096, 4096]" in plan.missing
  assert identify(shapes, given={"num_layers": 23}).missing == ()


def test_missing_unexpected_and_misshapen_names_are_listed(identify):
  shapes = released_names.checkpoint("umt5_xxl_encoder")
  shapes.pop("blocks.3.norm1.weight")
  shapes["blocks.3.norm7.weight"] = ((4096,), "bfloat16")
  shapes["blocks.4.attn.q.weight"] = ((4096, 4095), "bfloat16")
  shapes["norm.weight"] = ((4096,), "float64")
  plan = identify(shapes)
  assert plan.missing == ("blocks.3.norm1.weight [4096]",)
  assert plan.unexpected == ("blocks.3.norm7.weight [4096]",)
  assert sorted(plan.misshapen) == ["blocks.4.attn.q.weight is [4096, 4095], wanted [4096, 4096]",
                                    "norm.weight is float64, wanted float32, bfloat16, float16"]
  with pytest.raises(InputError, match="1 missing, 1 unexpected, 2 misshapen") as error:
    plan.check()
  assert "missing: blocks.3.norm1.weight [4096]" in str(error.value)


def test_a_long_list_of_faults_is_cut(identify):
  shapes = {name: value for name, value in released_names.checkpoint("umt5_xxl_encoder").items()
            if "norm1" not in name}
  with pytest.raises(InputError, match="24 missing") as error:
    identify(shapes).check()
  assert "missing: blocks.0.norm1.weight [4096], blocks.1.norm1.weight [4096]" in str(error.value)
  assert ", ...\nGive the checkpoint as published" in str(error.value)
  assert len(str(error.value).splitlines()) == 3


def test_wrong_and_mixed_files_are_refused(identify):
  vae, text = (released_names.checkpoint(name) for name in ("wan_vae", "umt5_xxl_encoder"))
  with pytest.raises(InputError, match=r"ambiguous: it has names of .* and of vae"):
    identify(vae | text)
  with pytest.raises(InputError, match=r"ambiguous.*preview.*flash|ambiguous.*flash.*preview"):
    identify(released_names.checkpoint("preview_transformer")
             | released_names.checkpoint("flash_transformer"))
  with pytest.raises(InputError, match="not recognised. Its 2 tensors are named a, b"):
    identify({"a": ((3,), "float32"), "b": ((3,), "float32")})
  with pytest.raises(InputError, match="not recognised. Its 0 tensors"):
    identify({})
  with pytest.raises(InputError, match="holds a vae, wanted was transformer"):
    identify(vae, component="transformer")


def test_config_files_are_read_only_for_their_own_network(identify):
  wan = {"dim": 1536, "ffn_dim": 8960, "num_heads": 6, "num_layers": 30, "text_len": 256}
  config = identify(released_names.checkpoint("preview_transformer"), beside=wan).config
  assert (config.num_heads, config.text_tokens) == (6, 256)
  config = identify(released_names.checkpoint("preview_transformer"),
                    beside={"num_heads": 64, "num_layers": 24, "text_len": 7}).config
  assert (config.num_heads, config.num_layers, config.text_tokens) == (12, 30, 512), "as umT5 has it"
  for name in ("umt5_xxl_encoder", "clip_visual_used", "wav2vec2_base_model"):
    plan = identify(released_names.checkpoint(name), beside=wan)
    assert plan.config == type(plan.config)(), name


def test_unknown_config_fields_are_named(identify):
  with pytest.raises(InputError, match="no config field num_head; known: .*num_heads"):
    identify(released_names.checkpoint("wav2vec2_base_model"), given={"num_head": 2})
  plan = identify(released_names.checkpoint("wav2vec2_base_model"),
                  given={"audio_encoder": {"num_heads": 8}, "vae": {}})
  assert plan.config.num_heads == 8


@pytest.mark.parametrize("given, message", [
    ({"num_heads": "12"}, "num_heads is '12', wanted a value of type int"),
    ({"conv_kernels": 3}, "conv_kernels is 3, wanted a list"),
    ({"num_heads": True}, "num_heads is True, wanted a value of type int"),
    ({"conv_kernels": (10, "3")}, r"conv_kernels is \(10, '3'\), wanted a list of type int"),
    ({"conv_kernels": ((1,), (2,))}, "conv_kernels is .*, wanted a list of type int"),
    ({"audio_encoder": 3}, "--config_json: audio_encoder is '3', wanted an object"),
    ({"num_layers": 10**9}, "num_layers is 1000000000, which is not a valid size"),
    ({"num_heads": 0}, "num_heads is 0, which is not a valid size"),
    ({"num_heads": 7}, "dim is 768; it must be a multiple of num_heads, 7"),
    ({"conv_kernels": (1, 2)}, "2 conv_kernels and 7 conv_strides"),
])
def test_config_values_that_cannot_be_are_named(identify, given, message):
  with pytest.raises(InputError, match=message):
    identify(released_names.checkpoint("wav2vec2_base_model"), given=given).check()


def test_heads_divide_the_width(identify):
  with pytest.raises(InputError, match="attention_dim is 4096; it must be a multiple of num_heads, 7"):
    identify(released_names.checkpoint("umt5_xxl_encoder"), given={"num_heads": 7})


def test_config_files_of_no_network_are_named(identify):
  clip = released_names.checkpoint("clip_visual_used")
  with pytest.raises(InputError, match="config.json beside it, do not fit this network"):
    identify(clip, beside={"vision_config": 3})
  speech = released_names.checkpoint("wav2vec2_base_model")
  with pytest.raises(InputError, match="config.json beside it, do not fit this network"):
    identify(speech, beside={"conv_stride": 3})


def test_an_absurd_layer_number_is_named(identify):
  shapes = released_names.checkpoint("umt5_xxl_encoder")
  shapes["blocks.999999999.norm1.weight"] = ((4096,), "bfloat16")
  with pytest.raises(InputError, match="num_layers is 1000000000"):
    identify(shapes)


@pytest.mark.parametrize("kind, theirs, ours", [
    (LINEAR, (5, 7), (7, 5)), (CONV, (5, 7, 2, 3, 4), (2, 3, 4, 7, 5)), (CONV, (5, 7, 3), (3, 7, 5)),
    (POINTWISE_3D, (5, 7, 1, 1, 1), (7, 5)), (POINTWISE_2D, (5, 7, 1, 1), (7, 5)),
    (GAMMA_3D, (5, 1, 1, 1), (5,)), (GAMMA_2D, (5, 1, 1), (5,)), (TENSOR_OF_ONE, (1, 6, 5), (6, 5)),
    (third(1), (15, 7), (7, 5)),
])
def test_kinds_move_axes_and_move_them_back(rng, kind, theirs, ours):
  leaf = Row("x", kind, "y").leaves()[0]
  assert leaf.our_shape(theirs) == ours and leaf.their_shape(ours) == theirs
  tensor = rng.standard_normal(theirs)
  moved = leaf.take(tensor)
  assert moved.shape == ours
  back = leaf.transform.backward(moved)
  np.testing.assert_array_equal(back, tensor[5:10] if leaf.third else tensor)
  if kind is CONV and len(theirs) == 5:
    assert moved[1, 2, 3, 6, 4] == tensor[4, 6, 1, 2, 3]


def test_layers_are_found_by_number():
  rows = (Row("blocks.q", LINEAR, "blocks.{l}.q"), Row("blocks.conv0.out", LINEAR, "b.{l}.conv.0"))
  found = match(rows, {"blocks.0.q.weight": (2, 3), "blocks.11.q.weight": (2, 3),
                       "blocks.01.q.weight": (2, 3), "b.2.conv.0.bias": (4,), "b.2.conv.1.bias": (4,),
                       "blocks.2.q.bias": ()})
  assert found.shapes == {"blocks.q.kernel": {0: (3, 2), 11: (3, 2)},
                          "blocks.conv0.out.bias": {2: (4,)}, "blocks.q.bias": {2: ()}}
  assert found.unknown == ("blocks.01.q.weight", "b.2.conv.1.bias")
  assert found.layers == 12
  assert match(rows, {"blocks.0.q.weight": (2,)}).wrong_rank == {"blocks.0.q.weight": (2,)}


def test_no_two_leaves_of_a_table_share_a_name():
  for component in plan_lib.COMPONENTS.values():
    for layout in component.layouts:
      leaves = layout.leaves
      assert len({leaf.ours for leaf in leaves}) == len(leaves)
      assert len({(leaf.theirs, leaf.third) for leaf in leaves}) == len(leaves)


def test_statistics_of_latents_come_from_the_config_file(identify):
  mean, std = [float(i) for i in range(16)], [1.0 + i for i in range(16)]
  vae = released_names.checkpoint("wan_vae")
  config = identify(vae, beside={"latents_mean": mean, "latents_std": std}).config
  assert (config.latent_mean, config.latent_std) == (tuple(mean), tuple(std))
  assert identify(vae).config == type(config)()
