"""EchoMimicV3 preview with the released sampling settings.

  python run_sample.py --config=configs/echomimic_v3_preview.py --checkpoint=DIR \
      --image=portrait.png --audio=voice.wav --prompt="A person is speaking." --out=clip.mp4

Euler, 25 steps, shift 5, text guidance 4 and audio guidance 2.9 with the released decay; windows
of 113 frames at up to 768x768. The paper's guidance scales (text 3, audio 9) conflict with all
released code: set `--config.sampling.text_scale=3 --config.sampling.audio_scale=9` to try them.
"""

import dataclasses

import ml_collections

from emv3_jax.sampling.settings import RELEASED, Config


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dataclasses.asdict(Config(
      name="echomimic_v3_preview",
      sampling=RELEASED["preview"])))
