"""Configs and windows of the parts: those of the released models, and small ones for a CPU."""

import dataclasses

from emv3_jax.components.config import ModelConfig
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.models.umt5 import UMT5Config
from emv3_jax.models.vae import VAEConfig
from emv3_jax.plan.programs import Window
from emv3_jax.sampling.settings import Config, SamplingConfig
from emv3_jax.training import settings as training


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of all parts.

  Attributes:
    preview, flash: sampling configs of the two variants.
    training: config of a training step of one clip, every layer recomputed in the backward pass.
    preview_window, flash_window, training_window: sizes of their clips.
    heads, head_dim: of attention that is compared with float32.
    lengths: numbers of its queries and of its keys.
  """

  preview: Config
  flash: Config
  training: training.Config
  preview_window: Window
  flash_window: Window
  training_window: Window
  heads: int
  head_dim: int
  lengths: tuple[tuple[int, int], ...]

  def in_turn(self) -> Config:
    """The preview config with one guidance branch after the other."""
    return dataclasses.replace(self.preview, sampling=SamplingConfig(branches="in_turn"))


def _sizes(preview: ModelConfig, flash: ModelConfig, **others) -> Sizes:
  return Sizes(
      preview=Config("preview", model=preview), flash=Config("flash", model=flash),
      training=training.Config("training", model=preview, train=training.TrainConfig(batch=1, remat="full")),
      **others)


FULL = _sizes(
    ModelConfig(), ModelConfig(transformer=TransformerConfig(variant="flash")),
    preview_window=Window(frames=113, height=768, width=768),
    flash_window=Window(frames=81, height=768, width=768),
    training_window=Window(frames=113, height=480, width=832),
    heads=12, head_dim=128, lengths=((4096, 4096), (1001, 1001), (4096, 257), (4096, 17)))

_TRANSFORMER = TransformerConfig(dim=64, ffn_dim=128, num_heads=2, num_layers=1, freq_dim=32, text_dim=32,
                                 image_dim=32, audio_dim=32)
_OTHERS = dict(
    vae=VAEConfig(base_dim=8, num_res_blocks=1),
    text_encoder=UMT5Config(vocab_size=64, dim=32, attention_dim=32, ffn_dim=64, num_heads=2, num_layers=1))
_WINDOW = Window(frames=5, height=32, width=32)

SMALL = _sizes(
    ModelConfig(transformer=_TRANSFORMER, **_OTHERS),
    ModelConfig(transformer=dataclasses.replace(_TRANSFORMER, variant="flash", audio_layers=2, audio_hidden=32,
                                                audio_tokens=4), **_OTHERS),
    preview_window=_WINDOW, flash_window=_WINDOW, training_window=_WINDOW,
    heads=2, head_dim=32, lengths=((64, 64), (33, 17)))
