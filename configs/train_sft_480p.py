"""The paper's training at full size: 113 frames of 480p, 64 clips a step, learning rate 1e-4.

  python -m convert BASE models/base                     # Wan2.1-Fun-1.3B-InP, see docs/conversion.md
  python -m emv3_jax.preparation --manifest=clips.jsonl --out=data/480p --checkpoint=models/base
  python run_train.py --config=configs/train_sft_480p.py --workdir=runs/480p \
      --config.checkpoint=models/base --config.data=data/480p \
      --config.mesh.fsdp=16 --config.mesh.context=4      # on 64 chips

Where the checkpoint is a base model, the audio path starts anew, silent. float32 parameters, moments
and moving average, bfloat16 computation, every layer computed again in the backward pass. The
paper gives no batch size (it has 64 GPUs), number of steps, warm-up or decay of the average: these
are this project's choice. What a step takes on machines that are not at hand:

  python run_train.py --config=configs/train_sft_480p.py --plan=v5e:16x16
  python run_train.py --config=configs/train_sft_480p.py --config.train.batch=4 \
      --plan=v5e:4x4,h100:1x2x8

As planned, GiB of each device for the training step and for negative DPO: 2.18 and 2.20 on v5e:16x16
(fsdp 64 x context 4); with 4 clips a step (fsdp 4 x context 4) 4.23 and 4.44 on v5e:4x4, 4.71 and 4.92
on two nodes of 8 H100. See docs/memory.md.
"""

import dataclasses

import ml_collections

from emv3_jax.training.settings import Config, LossConfig, ScheduleConfig, TrainConfig


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(dataclasses.asdict(Config(
      name="train_sft_480p",
      loss=LossConfig(face=1.0, mouth=1.0, jitter=50.0),
      schedule=ScheduleConfig(preset="paper", steps=20000, learning_rate=1e-4, warmup=500),
      train=TrainConfig(batch=64, remat="full", log_every=10, checkpoint_every=500, keep=3,
                        keep_every=5000))))
