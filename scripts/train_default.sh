#!/bin/sh
# Trains the small default from nothing to the weights of configs/tiny.py: sh scripts/train_default.sh
#
# Under two hours of two idle cores; docs/training.md tells what comes out of each part. Started
# again after it was stopped it goes on where it was. A part that falls short of its gate ends it.
# PARTS_FROM=DIR takes the parts that the model folder DIR has, where they are of the present settings.
# Files go to runs/ and data/ of the present folder, the model to where configs/tiny.py looks for it.
set -eu
python=${PYTHON:-python}
parts=runs/tiny_parts

if [ -n "${PARTS_FROM:-}" ] && [ ! -d $parts/model ]; then
  mkdir -p $parts
  cp -R "$PARTS_FROM" $parts/model
fi

for stage in vae audio text model; do
  $python scripts/train_tiny.py --stage=$stage --workdir=$parts
done

puppets() {  # name, split, clips
  folder=data/puppets_$1
  [ -f $folder/clips.jsonl ] || $python -m emv3_jax.puppets --out=$folder --split=$2 --count=$3 --frames=65
}
prepare() {  # name, end of the records' name, a setting or none
  $python -m emv3_jax.preparation --config=configs/prepare_tiny.py --checkpoint=$parts/model \
      --manifest=data/puppets_$1/clips.jsonl --out=data/puppets_$1_records$2 ${3:-}
}
puppets train crowd 256
puppets mixed mixed 768
puppets held_out held_out 12
prepare train ""
prepare mixed _65 --config.prepare.frames=65
prepare held_out ""
prepare held_out _65 --config.prepare.frames=65

$python run_train.py --config=configs/train_tiny.py --workdir=runs/tiny
$python run_train.py --config=configs/train_tiny_long.py --workdir=runs/tiny_long
$python scripts/train_tiny.py --stage=default --workdir=$parts --run=runs/tiny_long
$python scripts/judge_tiny.py
