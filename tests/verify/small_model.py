"""Files of the released names with small random networks in them, and the folder made of them."""

import dataclasses
import math
import pathlib

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from convert import released
from convert.importing import convert
from convert.sources import find
from emv3_jax.models.clip import CLIPVisionConfig
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.models.umt5 import UMT5Config
from emv3_jax.models.vae import VAEConfig
from emv3_jax.models.wav2vec2 import Wav2Vec2Config

_TRANSFORMER = TransformerConfig(dim=96, ffn_dim=192, num_heads=3, num_layers=2, freq_dim=64,
                                 text_dim=64, image_dim=48, audio_dim=48)
CONFIGS = {
    "preview": _TRANSFORMER,
    # Layers of 768: the shapes of a flash file tell 5 x layers x 768 only as their product.
    "flash": dataclasses.replace(_TRANSFORMER, variant="flash", audio_layers=2, audio_hidden=16,
                                 audio_tokens=4),
    "vae": VAEConfig(base_dim=16),
    "text_encoder": UMT5Config(300, 64, 64, 96, 4, 3),
    "image_encoder": CLIPVisionConfig(dim=48, num_layers=2, num_heads=3),
    "audio_encoder": Wav2Vec2Config(dim=48, ffn_dim=96, num_layers=2, num_heads=4, conv_dim=32,
                                    position_groups=8),
}
FILES = {"preview": "diffusion_pytorch_model.safetensors",
         "flash": "diffusion_pytorch_model.safetensors",
         "vae": "Wan2.1_VAE.safetensors", "text_encoder": "models_t5.safetensors",
         "image_encoder": "models_clip.safetensors", "audio_encoder": "model.safetensors"}


def random_tensors(name: str, seed: int = 0) -> dict[str, np.ndarray]:
  """Official tensors of an entry of CONFIGS; no gain is 1, no bias 0."""
  component, variant = (("transformer", name) if name in ("preview", "flash") else (name, None))
  draw = np.random.default_rng(seed)

  def tensor(key: str, shape, dtype):
    values = draw.standard_normal(shape, np.float32)
    gain = key.endswith(("gamma", "weight_g")) or "norm" in key and key.endswith("weight")
    if gain or key.endswith(("audio2token.norm.weight", "proj.0.weight", "proj.4.weight",
                             "layer_norm.weight")):
      values = 1 + 0.1 * values
    elif key.endswith("bias"):
      values *= 0.1
    elif len(shape) > 1:
      values *= math.prod(shape[1:]) ** -0.5
    return values.astype(getattr(ml_dtypes, dtype, dtype))

  return {key: tensor(key, *entry)
          for key, entry in released.tensors(component, variant, CONFIGS[name]).items()}


def given(name: str) -> dict:
  """Config fields that the shapes do not tell."""
  config = CONFIGS[name]
  told = {"num_heads": config.num_heads} if hasattr(config, "num_heads") else {}
  if name == "flash":
    told |= {"audio_dim": config.audio_dim, "audio_layers": config.audio_layers}
  return told


def write(folder: pathlib.Path, names, seed: int = 0) -> None:
  """Writes a file of each name, in a folder of its own, below `folder`."""
  for name in names:
    path = folder / name / FILES[name]
    path.parent.mkdir(parents=True)
    save_file(random_tensors(name, seed), path)


def add(model: pathlib.Path, source: pathlib.Path, name: str, dtype: str = "keep",
        **changes) -> None:
  """Converts what lies in `source` into the model folder."""
  component = "transformer" if name in ("preview", "flash") else name
  convert(find(str(source)), model, component, dtype, {component: {**given(name), **changes}})


def make(root: pathlib.Path, names) -> tuple[pathlib.Path, pathlib.Path]:
  """Files of those names and the model folder made of them: (model, sources)."""
  write(root / "sources", names)
  for name in names:
    add(root / "model", root / "sources" / name, name)
  return root / "model", root / "sources"
