"""Prepares clips of the puppets' size for the tiny networks.

  python -m emv3_jax.puppets --out=data/puppets_train --split=crowd --count=256 --frames=65
  python -m emv3_jax.preparation --config=configs/prepare_tiny.py --checkpoint=DIR \
      --manifest=data/puppets_train/clips.jsonl --out=data/puppets_train_records
"""

import dataclasses

import ml_collections

from emv3_jax.configs import tiny
from emv3_jax.preparation.settings import PrepareConfig


def get_config() -> ml_collections.ConfigDict:
  config = tiny.get_config()
  config.prepare = ml_collections.ConfigDict(dataclasses.asdict(PrepareConfig(
      frames=17, stride=16, sizes=((64, 64),), text_batch=64, image_batch=32, video_batch=4)))
  return config
