"""Trains the transformer of configs/tiny.py on puppets, from random weights, on two CPU cores.

  for stage in vae audio text model; do
    python scripts/train_tiny.py --stage=$stage --workdir=runs/tiny_parts; done
  python -m emv3_jax.puppets --out=data/puppets_train --split=crowd --count=256 --frames=65
  python -m emv3_jax.puppets --out=data/puppets_held_out --split=held_out --count=12 --frames=65
  for split in train held_out; do
    python -m emv3_jax.preparation --config=configs/prepare_tiny.py \
        --checkpoint=runs/tiny_parts/model --manifest=data/puppets_$split/clips.jsonl \
        --out=data/puppets_${split}_records; done
  python run_train.py --config=configs/train_tiny.py --workdir=runs/tiny

runs/tiny/model speaks for 17 frames; configs/train_tiny_long.py goes on with it. docs/training.md has
what each costs. The paper's schedule: image to video and first and last frame to video before lip-sync
joins them.
"""

import dataclasses

import ml_collections

from emv3_jax.components.config import PrecisionConfig
from emv3_jax.configs.tiny import ASSETS, MODEL
from emv3_jax.models.precision import FLOAT32
from emv3_jax.sampling.settings import SamplingConfig
from emv3_jax.training.curriculum import Mixture, Stage
from emv3_jax.training.settings import (
    Config,
    LossConfig,
    OptimizerConfig,
    PreviewConfig,
    TrainConfig,
)

# More text to video than the presets have: it is what captions are learnt by.
ALL_TASKS = Mixture(t2v=0.15, i2v=0.35, flf2v=0.2, lipsync=0.3)
STAGES = (
    Stage("base_tasks", 1200, Mixture(t2v=0.2, i2v=0.5, flf2v=0.3), learning_rate=3e-3, warmup=50),
    Stage("all_tasks", 800, ALL_TASKS, learning_rate=3e-3, warmup=20, decay="cosine",
          final_share=0.3))

PREVIEW = PreviewConfig(
    audio=str(ASSETS / "speech.wav"), image=str(ASSETS / "portrait.png"),
    prompt=(ASSETS / "prompt.txt").read_text().strip(),
    face_box=(ASSETS / "face_box.txt").read_text().strip(),
    tokenizer=str(ASSETS / "tokenizer.json"),
    held_out="data/puppets_held_out_records", batches=6)

SAMPLING = SamplingConfig(  # what the model folder recommends; docs/training.md has the sweep
    solver="euler", steps=10, shift=2.0, solver_shift=5.0, text_scale=2.0, audio_scale=1.8,
    dynamic_text=False, dynamic_audio=False, neg_scale=1.0, neg_steps=0, max_frames=129, height=64,
    width=64, negative_prompt="six fingers, jerky motion, drifting colours", enlarge=6)


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
      optimizer=OptimizerConfig(name="muon", b1=0.95, b2=0.99),
      preview=PREVIEW,
      sampling=SAMPLING,
      train=TrainConfig(batch=16, remat="none", attention="xla", log_every=25, checkpoint_every=100,
                        preview_every=2000))))
