"""Small networks as diffusers and transformers save them, live against those same libraries."""

import pytest
import torch
import transformers

from convert.importing import convert
from convert.sources import find
from emv3_jax.io.checkpoints import read_model_card
from emv3_jax.verify import libraries
from tests.parity.test_released_names import verified
from tests.verify.small_model import CONFIGS

pytestmark = pytest.mark.parity


def randomized(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
  """Moves every parameter off its initial value, so that no gain is 1 and no bias 0."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for parameter in module.parameters():
      parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
  return module.eval()


def converted(module, folder, component: str, **given):
  """Saves the module as its library does and converts it: (model folder, folder of the files)."""
  randomized(module).save_pretrained(folder / "saved")
  convert(find(str(folder / "saved")), folder / "model", component, given={component: given})
  return folder / "model", folder / "saved"


def test_transformer_is_recognised(tmp_path):
  model, _ = converted(libraries.wan_transformer(CONFIGS["preview"]), tmp_path, "transformer")
  card = read_model_card(model)
  assert card.variant == "base" and card.components["transformer"].config["num_heads"] == 3


def test_vae(tmp_path, capsys):
  model = converted(libraries.wan_vae(CONFIGS["vae"]), tmp_path, "vae")
  code, found = verified(capsys, *model, "--parts=vae")
  assert code == 0 and len(found["rows"]) == 2, found["rows"]


def test_umt5(tmp_path, capsys):
  module = libraries.umt5(CONFIGS["text_encoder"], layers=3, vocab_size=300)
  code, found = verified(capsys, *converted(module, tmp_path, "text_encoder"),
                         "--parts=text_encoder")
  assert code == 0, found["rows"]


def test_clip_with_its_text_tower(tmp_path, capsys):
  vision = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
                image_size=56, patch_size=14, hidden_act="gelu")
  text = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
              num_attention_heads=2)
  module = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))
  model, saved = converted(module, tmp_path, "image_encoder")
  assert read_model_card(model).components["image_encoder"].config["num_layers"] == 2
  code, found = verified(capsys, model, saved, "--parts=image_encoder")
  assert code == 0, found["rows"]


def test_clip_s_vision_tower_alone(tmp_path, capsys):
  """transformers 5 saves it without `vision_model.` before its names."""
  module = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(
      hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
      image_size=56, patch_size=14, hidden_act="gelu"))
  model, saved = converted(module, tmp_path, "image_encoder")
  code, found = verified(capsys, model, saved, "--parts=image_encoder")
  assert code == 0, found["rows"]


def test_wav2vec2(tmp_path, capsys):
  module = transformers.Wav2Vec2Model(libraries.wav2vec2_config(CONFIGS["audio_encoder"]))
  code, found = verified(capsys, *converted(module, tmp_path, "audio_encoder"),
                         "--parts=audio_encoder")
  assert code == 0, found["rows"]
