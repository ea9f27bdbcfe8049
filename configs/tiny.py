"""The embedded default: the same architecture small enough for two CPU cores.

  python run_sample.py --config=configs/tiny.py --image=portrait.png --audio=voice.wav \
      --prompt="a puppet is talking" --out=clip.mp4

The five networks have 64x64 pictures and a tokenizer of their own in mind. Their weights ship with the
package: trained on puppets (docs/puppets.md) as docs/training.md tells, they make puppets speak, and
nothing else: people want the released model, see docs/conversion.md. Steps, scales of guidance and the
like are those that the model folder recommends (configs/train_tiny.py wrote them there): whatever
picture or video comes is sampled at 64x64, and written six times as large.
"""

import dataclasses
import pathlib

import ml_collections

import emv3_jax
from emv3_jax.components.config import ModelConfig, PrecisionConfig
from emv3_jax.models.clip import CLIPVisionConfig
from emv3_jax.models.precision import FLOAT32
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.models.umt5 import UMT5Config
from emv3_jax.models.vae import VAEConfig
from emv3_jax.models.wav2vec2 import Wav2Vec2Config
from emv3_jax.sampling.settings import Config, SamplingConfig

ASSETS = pathlib.Path(emv3_jax.__file__).parent / "assets/tiny"

MODEL = ModelConfig(
    transformer=TransformerConfig(
        dim=192, ffn_dim=768, num_heads=6, num_layers=6, freq_dim=64, text_dim=64, text_tokens=64,
        image_dim=64, image_tokens=17, audio_dim=64),
    vae=VAEConfig(base_dim=16, multipliers=(1, 2, 4, 4), num_res_blocks=1,
                  latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16),  # the weights normalise
    text_encoder=UMT5Config(vocab_size=512, dim=64, attention_dim=64, ffn_dim=128, num_heads=4,
                            num_layers=2),
    image_encoder=CLIPVisionConfig(dim=64, num_layers=2, num_heads=4, patch_size=56),
    audio_encoder=Wav2Vec2Config(dim=64, conv_dim=64, num_layers=2, num_heads=4, ffn_dim=128))

def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dataclasses.asdict(Config(
      name="tiny",
      checkpoint=str(ASSETS / "model"),
      tokenizer=str(ASSETS / "tokenizer.json"),
      prompt_cache="",
      keep_parts=True,
      model=MODEL,
      precision=PrecisionConfig(*(FLOAT32 for _ in dataclasses.fields(PrecisionConfig))),
      sampling=SamplingConfig(attention="blocked"))))
