"""EchoMimicV3 flash, with the settings that its model folder recommends.

  python run_sample.py --config=configs/echomimic_v3_flash.py --checkpoint=DIR \
      --image=portrait.png --audio=voice.wav --prompt="A person is speaking." --out=clip.mp4

A folder of the released weights recommends the released settings: UniPC, 8 steps, shift 5 (solver's
own shift 1), audio guidance 3, windows of 81 frames. Flash has no face mask, and its guidance is
between voice and silence only: `text_scale` (6, as released) merely switches it on, a negative prompt
is not used.
"""

import dataclasses

import ml_collections

from emv3_jax.components.config import ModelConfig
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.sampling.settings import Config


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dataclasses.asdict(Config(
      name="echomimic_v3_flash",
      model=ModelConfig(transformer=TransformerConfig(variant="flash")))))
