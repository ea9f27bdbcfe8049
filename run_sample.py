"""Makes talking videos: one portrait and one voice, or many from a manifest.

  python run_sample.py --config=configs/tiny.py --image=P --audio=A --prompt=TEXT --out=V.mp4
  python run_sample.py --config=configs/tiny.py --manifest=jobs.jsonl --out=DIR
  python run_sample.py --config=configs/echomimic_v3_preview.py --plan=v5e:2x4,h100:1x1x8

Flags, exit codes and what they do are in emv3_jax/commands/sample.py; installed, the command is emv3-sample.
"""

from emv3_jax.commands.sample import run

if __name__ == "__main__":
  run()
