"""Trains the model.

  python run_train.py --config=configs/train_tiny.py --workdir=runs/tiny
  python run_train.py --config=configs/train_sft_480p.py --workdir=runs/sft --config.data=DATASET \
      --config.mesh.fsdp=16
  python run_train.py --config=configs/train_tiny.py --workdir=runs/tiny --export=MODEL
  python run_train.py --config=configs/train_sft_480p.py --plan=v5e:16x16 --config.train.batch=64

Flags, exit codes and what they do are in emv3_jax/commands/train.py; installed, the command is emv3-train.
"""

from emv3_jax.commands.train import run

if __name__ == "__main__":
  run()
