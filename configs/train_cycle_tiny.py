"""SFT, negative DPO against one issue, SFT: the cycle of docs/stages.md on the small default.

  python run_train.py --config=configs/train_cycle_tiny.py --workdir=runs/cycle

The run starts from the weights of configs/tiny.py, on the records that configs/train_tiny.py learns
from. It stops where the stage `drift` begins, says which commands make the negatives of that stage,
and goes on once they are there. A small model's errors are large, so that beta is small.
"""

import dataclasses

import ml_collections

from emv3_jax.configs import train_tiny
from emv3_jax.configs.tiny import ASSETS
from emv3_jax.training.curriculum import ALL_TASKS, Stage
from emv3_jax.training.settings import NDPOConfig

BETA = 40.0

STAGES = (
    Stage("tasks", 200, ALL_TASKS, learning_rate=5e-4, warmup=20),
    Stage("drift", 100, ALL_TASKS, learning_rate=2e-4, kind="ndpo", negatives="data/negatives_drift"),
    Stage("recover", 100, ALL_TASKS, learning_rate=2e-4, decay="linear", final_share=0.1))


def get_config() -> ml_collections.ConfigDict:
  config = train_tiny.get_config()
  config.name = "train_cycle_tiny"
  config.checkpoint = config.components = str(ASSETS / "model")
  config.stages = tuple(dataclasses.asdict(stage) for stage in STAGES)
  config.ndpo = ml_collections.ConfigDict(dataclasses.asdict(
      NDPOConfig(beta=BETA, sft_weight=BETA / 2)))
  config.train.preview_every = 0
  return config
