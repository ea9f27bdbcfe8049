#!/bin/sh
# Trains the small default from nothing to the weights of configs/tiny.py: sh scripts/train_default.sh
#
# Two and a half hours of two cores; docs/training.md tells what comes out of each part. Started
# again after it was stopped it goes on where it was. A part that falls short of its gate ends it.
# Files go to runs/ and data/ of the present folder, the model to where configs/tiny.py looks for it.
set -eu
python=${PYTHON:-python}
parts=runs/tiny_parts

for stage in vae wide audio model; do
  $python scripts/train_tiny.py --stage=$stage --workdir=$parts
done

puppets() {  # name, clips, split
  clips=data/puppets_$1/clips.jsonl
  [ -f $clips ] || $python -m emv3_jax.puppets --out=data/puppets_$1 --split=$3 --count=$2 --frames=65
  prepare="$python -m emv3_jax.preparation --config=configs/prepare_tiny.py --checkpoint=$parts/model"
  $prepare --manifest=$clips --out=data/puppets_$1_records
  $prepare --manifest=$clips --out=data/puppets_$1_records_65 --config.prepare.frames=65
}
puppets train 256 crowd
puppets held_out 12 held_out

$python run_train.py --config=configs/train_tiny.py --workdir=runs/tiny
$python run_train.py --config=configs/train_tiny_long.py --workdir=runs/tiny_long
$python scripts/train_tiny.py --stage=default --workdir=$parts --run=runs/tiny_long
$python scripts/judge_tiny.py
