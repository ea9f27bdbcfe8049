"""Tensors of the files in modules of other names, by the converter's tables."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.verify import originals
from tests.verify import small_model

torch = pytest.importorskip("torch", reason="PyTorch is in the extra `parity` only")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """{name: (original, its tensors)} of a text and an image encoder."""
  root = tmp_path_factory.mktemp("weights")
  names = ["text_encoder", "image_encoder"]
  model, sources = small_model.make(root, names)
  found = originals.find_originals(originals.read_folder(model, names), names, [str(sources)])
  return {name: (found[name], small_model.random_tensors(name)) for name in names}


def module_of(shapes: dict) -> torch.nn.Module:
  """A module whose parameters have those dotted names."""
  root = torch.nn.Module()
  for name, shape in shapes.items():
    *folders, last = name.split(".")
    node = root
    for folder in folders:
      if not hasattr(node, folder):
        node.add_module(folder, torch.nn.Module())
      node = getattr(node, folder)
    node.register_parameter(last, torch.nn.Parameter(torch.full(shape, torch.nan)))
  return root


def fill(module, original, component, names, **options):
  from emv3_jax.verify import weights
  weights.fill(module, original, weights.layout_of(component, names), **options)
  return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def shapes_of(component: str, names: str) -> dict:
  """{name: shape} of a whole module in the names of a layout, from our own shapes."""
  from convert.plan import COMPONENTS
  from emv3_jax.models.network import named_leaves
  from emv3_jax.verify import weights
  ours = named_leaves(COMPONENTS[component].abstract(small_model.CONFIGS[component], None))
  found = {}
  for leaf in weights.layout_of(component, names).leaves:
    if leaf.ours in ours:
      shape = tuple(ours[leaf.ours].shape)
      theirs = leaf.their_shape(shape[1:] if leaf.stacked else shape)
      found |= dict.fromkeys(leaf.names(shape[0]), theirs)
  return found


def test_a_module_of_the_files_names_has_their_values(models):
  original, tensors = models["image_encoder"]
  got = fill(module_of(shapes_of("image_encoder", "official")), original, "image_encoder",
             "official")
  assert got.keys() == tensors.keys()
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(got[name], tensor, err_msg=name)


def test_pickled_files_are_read_as_well(tmp_path):
  tensors = small_model.random_tensors("text_encoder")
  (tmp_path / "sources").mkdir()
  torch.save({name: torch.from_numpy(tensor.astype(np.float32)).bfloat16()
              for name, tensor in tensors.items()}, tmp_path / "sources/models_t5.pth")
  small_model.add(tmp_path / "model", tmp_path / "sources", "text_encoder")
  card = originals.read_folder(tmp_path / "model", ["text_encoder"])
  found = originals.find_originals(card, ["text_encoder"], [str(tmp_path)])["text_encoder"]
  got = fill(module_of(shapes_of("text_encoder", "official")), found, "text_encoder", "official")
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(got[name], tensor.astype(np.float32), err_msg=name)


def test_fused_tensors_are_parted_for_other_names(models):
  original, tensors = models["image_encoder"]
  got = fill(module_of(shapes_of("image_encoder", "transformers")), original, "image_encoder",
             "transformers")
  fused = tensors["visual.transformer.1.attn.to_qkv.weight"]
  parts = [got[f"vision_model.encoder.layers.1.self_attn.{name}_proj.weight"] for name in "qkv"]
  np.testing.assert_array_equal(np.concatenate(parts), fused)
  assert all(np.isfinite(value).all() for value in got.values())


def test_values_are_rounded_as_the_folder_has_them(models):
  original, tensors = models["image_encoder"]
  rounded = dataclasses.replace(original, stored=dict.fromkeys(original.stored, ml_dtypes.bfloat16))
  got = fill(module_of(shapes_of("image_encoder", "official")), rounded, "image_encoder",
             "official")
  name = "visual.transformer.0.mlp.0.weight"
  np.testing.assert_array_equal(got[name], tensors[name].astype(ml_dtypes.bfloat16))
  assert np.abs(got[name] - tensors[name]).max() > 0


def test_one_layer_at_a_time(models):
  original, tensors = models["text_encoder"]
  prefix = "encoder.block.0."
  one = module_of({name: shape for name, shape in shapes_of("text_encoder", "transformers").items()
                   if name.startswith(prefix)})
  for layer in (2, 0):
    got = fill(one, original, "text_encoder", "transformers", layer=layer,
               only=lambda name: name.startswith("blocks."))
    for theirs, official in (("layer.0.SelfAttention.q", "attn.q"),
                             ("layer.1.DenseReluDense.wi_1", "ffn.fc1")):
      np.testing.assert_array_equal(
          got[f"{prefix}{theirs}.weight"],
          tensors[f"blocks.{layer}.{official}.weight"].astype(np.float32))


@pytest.mark.parametrize("change, message", [
    (lambda shapes: shapes.pop("visual.pre_norm.bias"), "it lacks visual.pre_norm.bias"),
    (lambda shapes: shapes.update({"visual.more": (2,)}), "it also has visual.more"),
    (lambda shapes: shapes.update({"visual.pre_norm.bias": (7,)}),
     r"its visual.pre_norm.bias is \[7\], the file's \[48\]"),
])
def test_modules_that_do_not_fit_are_refused(models, change, message):
  shapes = shapes_of("image_encoder", "official")
  change(shapes)
  with pytest.raises(InputError, match=message):
    fill(module_of(shapes), models["image_encoder"][0], "image_encoder", "official")


def test_parameters_that_are_known_to_be_unused_may_be_there(models):
  shapes = shapes_of("image_encoder", "official")
  fill(module_of(shapes | {"visual.head": (48, 8)}), models["image_encoder"][0], "image_encoder",
       "official")


def test_modules_are_not_initialised_in_vain():
  from emv3_jax.verify import weights
  state = torch.get_rng_state()
  with weights.Unfilled():
    torch.nn.Linear(3, 4)
    torch.nn.init.normal_(torch.empty(3))
    torch.empty(3).uniform_()
  assert torch.equal(torch.get_rng_state(), state)
  torch.nn.Linear(3, 4)
  assert not torch.equal(torch.get_rng_state(), state)
