"""EchoMimicV3 preview, with the settings that its model folder recommends.

  python run_sample.py --config=configs/echomimic_v3_preview.py --checkpoint=DIR \
      --image=portrait.png --audio=voice.wav --prompt="A person is speaking." --out=clip.mp4

A folder of the released weights recommends the released settings: Euler, 25 steps, shift 5, text
guidance 4 and audio guidance 2.9 with the released decay; windows of 113 frames at up to 768x768.
One that was trained here recommends those of its training config. The paper's guidance scales (text
3, audio 9), which no released code uses, are `--config.sampling.preset=paper`.
"""

import dataclasses

import ml_collections

from emv3_jax.sampling.settings import Config


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dataclasses.asdict(Config(name="echomimic_v3_preview")))
