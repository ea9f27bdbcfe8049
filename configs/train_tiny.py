"""Trains the transformer of configs/tiny.py on puppets, from random weights, on two CPU cores.

  for stage in vae audio model; do
    python scripts/train_tiny.py --stage=$stage --workdir=runs/tiny_parts; done
  python -m emv3_jax.data.puppets --out=data/puppets_train --count=1000
  python -m emv3_jax.data.prepare --config=configs/prepare_tiny.py \
      --checkpoint=runs/tiny_parts/model --manifest=data/puppets_train/clips.jsonl \
      --out=data/puppets_train_records
  python run_train.py --config=configs/train_tiny.py --workdir=runs/tiny

The last command takes 40 minutes on two cores, half a second a step; runs/tiny/model is what
run_sample.py takes as --checkpoint.

The first half makes the base model: no sound, and the tasks that need none. The second half is the
paper's schedule: first and last frame to video and image to video before lip-sync joins them.
"""

import dataclasses

import ml_collections

from configs.tiny import ASSETS, MODEL, SAMPLING
from emv3_jax.model_config import PrecisionConfig
from emv3_jax.models.precision import FLOAT32
from emv3_jax.tasks.schedule import ALL_TASKS, BASE_TASKS, Stage
from emv3_jax.training.settings import Config, LossConfig, PreviewConfig, TrainConfig

STAGES = (
    Stage("base", 2250, BASE_TASKS, learning_rate=1e-3, warmup=100, audio=False),
    Stage("base_tasks", 1350, BASE_TASKS, learning_rate=1e-3, warmup=50),
    Stage("all_tasks", 900, ALL_TASKS, learning_rate=1e-3, warmup=50, decay="cosine",
          final_share=0.1))


PREVIEW = PreviewConfig(
    audio=str(ASSETS / "speech.wav"), image=str(ASSETS / "portrait.png"),
    prompt=(ASSETS / "prompt.txt").read_text().strip(),
    face_box=(ASSETS / "face_box.txt").read_text().strip(),
    tokenizer=str(ASSETS / "tokenizer.json"),
    sampling=dataclasses.replace(SAMPLING, allocation="phased"))


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dataclasses.asdict(Config(
      name="train_tiny",
      checkpoint="untrained",
      components="runs/tiny_parts/model",
      data="data/puppets_train_records",
      ema_decay=0.995,
      model=MODEL,
      precision=PrecisionConfig(*(FLOAT32 for _ in dataclasses.fields(PrecisionConfig))),
      loss=LossConfig(face=1.0, mouth=4.0),
      stages=STAGES,
      preview=PREVIEW,
      train=TrainConfig(batch=16, remat="none", attention="xla", log_every=25,
                        checkpoint_every=250, preview_every=1500))))
