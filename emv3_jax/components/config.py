"""The five networks of one model and the dtypes they run in."""

import dataclasses

from emv3_jax.errors import InputError
from emv3_jax.models.clip import CLIPVisionConfig
from emv3_jax.models.precision import Precision
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.models.umt5 import UMT5Config
from emv3_jax.models.vae import VAEConfig
from emv3_jax.models.wav2vec2 import Wav2Vec2Config


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Configurations of the networks, by component name; full size by default."""

  transformer: TransformerConfig = dataclasses.field(default_factory=TransformerConfig)
  vae: VAEConfig = dataclasses.field(default_factory=VAEConfig)
  text_encoder: UMT5Config = dataclasses.field(default_factory=UMT5Config)
  image_encoder: CLIPVisionConfig = dataclasses.field(default_factory=CLIPVisionConfig)
  audio_encoder: Wav2Vec2Config = dataclasses.field(default_factory=Wav2Vec2Config)


COMPONENTS = tuple(field.name for field in dataclasses.fields(ModelConfig))
QUANTISED = ("transformer", "text_encoder")  # networks whose weights may be int8


@dataclasses.dataclass(frozen=True)
class PrecisionConfig:
  """dtypes by component. umT5-XXL is 22.7 GB in float32: its weights stay in bfloat16 and one
  layer at a time is computed in float32.

  Raises:
    InputError: int8 weights of a network that is not in `QUANTISED`.
  """

  transformer: Precision = Precision(params="bfloat16", compute="bfloat16")
  vae: Precision = Precision(params="bfloat16", compute="bfloat16")
  text_encoder: Precision = Precision(params="bfloat16", compute="float32")
  image_encoder: Precision = Precision(params="bfloat16", compute="float32")
  audio_encoder: Precision = Precision(params="float32", compute="float32")

  def __post_init__(self):
    for name in COMPONENTS:
      if getattr(self, name).is_int8 and name not in QUANTISED:
        raise InputError(f"precision.{name}.params is int8, which only {' and '.join(QUANTISED)} can have; set float32 "
                         "or bfloat16.")
