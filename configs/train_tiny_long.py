"""Goes on with a run of configs/train_tiny.py on windows of 65 frames, of puppets that captions do not give away.

  python -m emv3_jax.puppets --out=data/puppets_mixed --split=mixed --count=768 --frames=65
  for split in mixed held_out; do
    python -m emv3_jax.preparation --config=configs/prepare_tiny.py --config.prepare.frames=65 \
        --checkpoint=runs/tiny_parts/model --manifest=data/puppets_$split/clips.jsonl \
        --out=data/puppets_${split}_records_65; done
  python run_train.py --config=configs/train_tiny_long.py --workdir=runs/tiny_long

runs/tiny_long/model is what run_sample.py takes as --checkpoint, and what ships.
"""

import dataclasses

import ml_collections

from emv3_jax.configs import train_tiny
from emv3_jax.configs.train_tiny import ALL_TASKS
from emv3_jax.training.curriculum import Stage

STAGE = Stage("long", 2000, ALL_TASKS, learning_rate=2e-3, warmup=50, decay="linear",
              final_share=0.02)


def get_config() -> ml_collections.ConfigDict:
  config = train_tiny.get_config()
  config.name = "train_tiny_long"
  config.checkpoint = "runs/tiny/model"
  config.data = "data/puppets_mixed_records_65"
  config.dropout.audio_text = 0.2  # what a picture shows has to be copied where no caption tells it
  config.preview.held_out = "data/puppets_held_out_records_65"
  config.stages = (dataclasses.asdict(STAGE),)
  config.train.batch = 8
  config.train.preview_every = 1000
  return config
