"""Tiny checkpoints in official names: to a model folder and back."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert.exporting import export
from convert.importing import convert
from convert.names_transformer import COMPONENT as TRANSFORMER
from convert.not_finite import count
from convert.plan import COMPONENTS
from convert.sources import find
from emv3_jax.errors import InputError
from emv3_jax.io.checkpoints import load_component, read_model_card, save_component
from emv3_jax.models.clip import CLIPVisionConfig
from emv3_jax.models.network import named_leaves
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.models.umt5 import UMT5Config
from emv3_jax.models.vae import VAEConfig
from emv3_jax.models.wav2vec2 import Wav2Vec2Config
from tests import golden_data
from tests.models import official_encoders, official_weights

_DIT = dict(dim=48, ffn_dim=64, num_heads=2, num_layers=2, freq_dim=16, text_dim=24, text_tokens=8,
            image_dim=20)
# component, variant, config, dtype of the file
TINY = {
    "preview": ("transformer", "preview", TransformerConfig(**_DIT), "bfloat16"),
    "flash": ("transformer", "flash",
              TransformerConfig("flash", audio_layers=2, audio_hidden=12, audio_tokens=4, **_DIT),
              "float16"),
    "base": ("transformer", "base", TransformerConfig(**_DIT), "float32"),
    "vae": ("vae", None, VAEConfig(base_dim=4), "float32"),
    "umt5": ("text_encoder", None, UMT5Config(50, 24, 16, 40, 4, 3), "bfloat16"),
    "clip": ("image_encoder", None, CLIPVisionConfig(32, 3, 4, 2, 28), "float32"),
    "wav2vec2": ("audio_encoder", None,
                 Wav2Vec2Config(32, 48, 2, 4, 8, position_kernel=16, position_groups=4), "float32"),
}


def official(name, rng, layout="official"):
  """A file's tensors with random values, and the options that the shapes do not tell."""
  component, variant, config, dtype = TINY[name]
  layout = next(found for found in COMPONENTS[component].layouts
                if (found.name, found.variant) == (layout, variant))
  wanted = named_leaves(COMPONENTS[component].abstract(config, variant))
  tensors = {}
  for leaf in layout.leaves:
    if leaf.ours in wanted:
      shape = wanted[leaf.ours].shape
      theirs = leaf.their_shape(shape[1:] if leaf.stacked else shape)
      for source in leaf.names(shape[0]):
        tensors.setdefault(source, rng.standard_normal(theirs).astype(dtype))
  given = {"num_heads": config.num_heads} if hasattr(config, "num_heads") else {}
  if component == "transformer":
    given["text_tokens"] = config.text_tokens
  return tensors, {component: given}


@pytest.mark.parametrize("name", TINY)
def test_a_converted_file_is_exported_bit_for_bit(tmp_path, rng, name):
  tensors, given = official(name, rng)
  save_file(tensors, tmp_path / "in.safetensors")
  component, variant, config, dtype = TINY[name]
  lines = convert(find(str(tmp_path / "in.safetensors")), tmp_path / "m", given=given)
  assert len(lines) == 1 and lines[0].startswith(f"{component}: ")
  card = read_model_card(tmp_path / "m")
  assert card.variant == variant
  assert type(config)(**card.components[component].config) == config
  assert card.components[component].dtype == dtype
  assert card.components[component].sources[0]["bytes"] == (
      tmp_path / "in.safetensors").stat().st_size
  export(tmp_path / "m", tmp_path / "out.safetensors", component)
  back = load_file(tmp_path / "out.safetensors")
  assert back.keys() == tensors.keys()
  for key, tensor in tensors.items():
    assert (back[key].dtype, back[key].shape) == (tensor.dtype, tensor.shape), key
    assert back[key].tobytes() == tensor.tobytes(), key


@pytest.mark.parametrize("folder, component", [
    ("preview", "transformer"), ("e2e", "transformer"), ("t5", "text_encoder"),
    ("clip", "image_encoder"), ("wav2vec", "audio_encoder")])
def test_parameters_are_those_of_an_independent_mapping(tmp_path, folder, component):
  stem = {"wav2vec": "group_postln.weights", "e2e": "weights_transformer_flash"}.get(
      folder, "weights")
  case = golden_data.load(folder, stem)
  told = case.meta["config"]
  heads = next(told[key] for key in ("vision_heads", "num_heads", "num_attention_heads")
               if key in told)
  given = {"num_heads": heads}
  if folder == "e2e":
    given |= {"audio_layers": 3, "audio_dim": 16}
  convert(find(str(golden_data.path(folder, f"{stem}.safetensors"))), tmp_path, given=given)
  if component == "transformer":
    want = official_weights.convert(case.arrays)
  elif folder == "t5":
    want = official_encoders.convert(official_encoders.UMT5, case.arrays, told["num_layers"])
  elif folder == "clip":
    want = official_encoders.convert(official_encoders.CLIP,
                                     official_encoders.clip_visual(case.arrays),
                                     told["vision_layers"] - 1)
  else:
    want = official_encoders.convert(official_encoders.WAV2VEC2, case.arrays,
                                     told["num_hidden_layers"])
  card = read_model_card(tmp_path).components[component]
  config = COMPONENTS[component].config(**card.config)
  got = named_leaves(load_component(tmp_path, component,
                                    COMPONENTS[component].abstract(config, None)))
  want = named_leaves(want)
  assert got.keys() == want.keys()
  for name, leaf in want.items():
    np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(leaf), err_msg=name)


@pytest.mark.parametrize("name, layout", [("base", "diffusers"), ("vae", "diffusers"),
                                          ("umt5", "transformers"), ("clip", "transformers")])
def test_other_layouts_give_the_same_export(tmp_path, rng, name, layout):
  """Fused and separate q, k, v included: both files are made from the same parameters."""
  tensors, given = official(name, rng, layout)
  save_file(tensors, tmp_path / "other.safetensors")
  component, variant, _, _ = TINY[name]
  convert(find(str(tmp_path / "other.safetensors")), tmp_path / "a", given=given)
  export(tmp_path / "a", tmp_path / "official.safetensors", component)
  convert(find(str(tmp_path / "official.safetensors")), tmp_path / "b", given=given)
  export(tmp_path / "b", tmp_path / "again.safetensors", component)
  assert ((tmp_path / "official.safetensors").read_bytes()
          == (tmp_path / "again.safetensors").read_bytes())
  leaves = {found.name: {leaf.ours: leaf for leaf in found.leaves}
            for found in COMPONENTS[component].layouts if found.variant == variant}
  back = load_file(tmp_path / "official.safetensors")
  for ours, leaf in leaves["official"].items():
    other = leaves[layout][ours]
    for source, its in zip(leaf.names(2), other.names(2), strict=True):
      if source in back:
        np.testing.assert_array_equal(leaf.take(back[source]), other.take(tensors[its]))


def test_dtype_is_converted_with_rounding_to_nearest(tmp_path, rng):
  tensors, given = official("wav2vec2", rng)
  save_file(tensors, tmp_path / "in.safetensors")
  source = find(str(tmp_path / "in.safetensors"))
  convert(source, tmp_path / "m", dtype="bfloat16", given=given)
  assert read_model_card(tmp_path / "m").components["audio_encoder"].dtype == "bfloat16"
  export(tmp_path / "m", tmp_path / "out.safetensors", "audio_encoder")
  for name, tensor in load_file(tmp_path / "out.safetensors").items():
    np.testing.assert_array_equal(tensor, tensors[name].astype(ml_dtypes.bfloat16), err_msg=name)


def test_the_base_transformer_gives_way_and_others_stay(tmp_path, rng):
  files = {}
  for name in ("base", "preview", "flash"):
    tensors, given = official(name, rng)
    save_file(tensors, tmp_path / f"{name}.safetensors")
    files[name] = find(str(tmp_path / f"{name}.safetensors"))
  convert(files["base"], tmp_path / "m", given=given)
  convert(files["preview"], tmp_path / "m", given=given)
  assert read_model_card(tmp_path / "m").variant == "preview"
  before = (tmp_path / "m" / "model.json").read_bytes()
  assert "already in" in convert(files["preview"], tmp_path / "m", given=given)[0]
  for name in ("base", "flash"):
    with pytest.raises(InputError, match=r"already has a transformer \(variant preview\)"):
      convert(files[name], tmp_path / "m", given=given)
  with pytest.raises(InputError, match="already has a transformer"):
    convert(files["preview"], tmp_path / "m", dtype="float32", given=given)
  assert (tmp_path / "m" / "model.json").read_bytes() == before
  convert(files["flash"], tmp_path / "m", given=given, replace=True)
  assert read_model_card(tmp_path / "m").variant == "flash"


def test_a_half_written_component_is_converted_again(tmp_path, rng):
  tensors, given = official("umt5", rng)
  save_file(tensors, tmp_path / "in.safetensors")
  convert(find(str(tmp_path / "in.safetensors")), tmp_path / "m", given=given)
  next((tmp_path / "m" / "text_encoder" / "state").rglob("d/*")).unlink()
  with pytest.raises(InputError, match="not whole"):
    read_model_card(tmp_path / "m").require("text_encoder")
  line, = convert(find(str(tmp_path / "in.safetensors")), tmp_path / "m", given=given)
  assert "already" not in line
  read_model_card(tmp_path / "m").require("text_encoder")


def test_nothing_is_written_when_one_of_several_files_is_not_whole(tmp_path, rng):
  (tmp_path / "in").mkdir()
  for name in ("umt5", "wav2vec2"):
    tensors, given = official(name, rng)
    if name == "umt5":
      tensors.pop("norm.weight")
    save_file(tensors, tmp_path / "in" / f"{name}.safetensors")
  with pytest.raises(InputError, match="1 missing.\n  missing: norm.weight"):
    convert(find(str(tmp_path / "in")), tmp_path / "m", given=given)
  assert not (tmp_path / "m").exists()
  convert(find(str(tmp_path / "in")), tmp_path / "m", component="audio_encoder", given=given)
  assert set(read_model_card(tmp_path / "m").components) == {"audio_encoder"}


def test_heads_come_from_the_config_file_or_are_asked_for(tmp_path, rng):
  tensors, _ = official("preview", rng)
  save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
  source = str(tmp_path / "diffusion_pytorch_model.safetensors")
  with pytest.raises(InputError, match="number of heads of width 48 .released: 128 a head"):
    convert(find(source), tmp_path / "m")
  (tmp_path / "config.json").write_text(json.dumps(
      {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "text_len": 8}))
  convert(find(source), tmp_path / "m")
  config = TransformerConfig(**read_model_card(tmp_path / "m").components["transformer"].config)
  assert config == TINY["preview"][2]
  with pytest.raises(InputError, match="dim is 48; expected a multiple"):
    convert(find(source), tmp_path / "m2", given={"num_heads": 5})
  assert TRANSFORMER.head_dim == 128


def test_export_names_what_is_not_there(tmp_path, rng):
  tensors, given = official("umt5", rng)
  save_file(tensors, tmp_path / "in.safetensors")
  convert(find(str(tmp_path / "in.safetensors")), tmp_path / "m", given=given)
  with pytest.raises(InputError, match="no component transformer; present: text_encoder"):
    export(tmp_path / "m", tmp_path / "out.safetensors")
  with pytest.raises(InputError, match="does not exist"):
    export(tmp_path / "m", tmp_path / "nowhere" / "out.safetensors", "text_encoder")
  assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors", "m"]


@pytest.mark.parametrize("name", ["out.pth", "out.bin", "out", "out.SAFETENSORS", ""])
def test_an_export_is_named_as_what_it_is(tmp_path, name):
  with pytest.raises(InputError, match="would be a safetensors file under another name.\nGive it"):
    export(tmp_path, tmp_path / name)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nan_and_inf_are_counted(dtype):
  values = np.linspace(-6e4, 6e4, 200_000).astype(dtype).reshape(2, -1)
  assert count(values) == (0, 0)
  values[0, 5], values[1, -1], values[1, 3], values[1, 4] = np.nan, -np.nan, np.inf, -np.inf
  values[0, 70_000] = np.nan
  assert count(values) == (3, 2) and count(values.T) == (3, 2)


def test_tensors_with_nan_are_named_and_counted(tmp_path, rng):
  tensors, given = official("wav2vec2", rng)
  tensors["encoder.layers.1.layer_norm.weight"][:3] = np.nan, np.inf, np.nan
  tensors["encoder.layers.0.layer_norm.bias"][4] = np.inf
  tensors["masked_spec_embed"] = np.full(4, np.nan, np.float32)  # not used
  tensors["encoder.layer_norm.bias"][:2] = 1e6, -7e4  # more than float16 can
  save_file(tensors, tmp_path / "in.safetensors")
  source = find(str(tmp_path / "in.safetensors"))
  told = [line for line in convert(source, tmp_path / "m", given=given) if "warning" in line]
  assert told == [
      "warning: audio_encoder: 2 tensors hold values that are not finite: "
      "encoder.layers.0.layer_norm.bias (1 Inf), encoder.layers.1.layer_norm.weight (2 NaN and 1 Inf)."
      " The network will give NaN: compare the file with the published one."]
  told = [line for line in convert(source, tmp_path / "h", dtype="float16", given=given)
          if "range of float16" in line]
  assert told == ["warning: audio_encoder: 1 tensor holds values beyond the range of float16: "
                  "encoder.layer_norm.bias (2 became Inf). Give --dtype=bfloat16 or float32."]


def test_exported_data_are_aligned(tmp_path, rng):
  """At eight bytes, so that any reader may map them."""
  tensors, given = official("wav2vec2", rng)
  save_file(tensors, tmp_path / "in.safetensors")
  convert(find(str(tmp_path / "in.safetensors")), tmp_path / "m", given=given)
  export(tmp_path / "m", tmp_path / "out.safetensors", "audio_encoder")
  data = (tmp_path / "out.safetensors").read_bytes()
  assert int.from_bytes(data[:8], "little") % 8 == 0
  assert json.loads(data[8:8 + int.from_bytes(data[:8], "little")])["__metadata__"] == {"format": "pt"}


def test_a_variant_without_official_names_is_named(tmp_path, rng):
  save_component(tmp_path / "m", "transformer", {"norm": {"scale": rng.standard_normal(3)}}, config={})
  with pytest.raises(InputError, match="holds the variant None, whose official names are not known"):
    export(tmp_path / "m", tmp_path / "out.safetensors")


def test_parameters_without_an_official_name_are_not_exported(tmp_path, rng):
  params = {"norm": {"scale": rng.standard_normal(3)}, "lora": {"a": rng.standard_normal(3)}}
  save_component(tmp_path / "m", "text_encoder", params, config={})
  with pytest.raises(InputError, match="without an official name: lora.a"):
    export(tmp_path / "m", tmp_path / "out.safetensors", "text_encoder")
  assert not (tmp_path / "out.safetensors").exists()
