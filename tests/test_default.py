"""The weights that ship: a held-out puppet says a held-out sentence, and is seen to."""

import pathlib

import pytest

from configs import tiny
from emv3_jax.config import build
from emv3_jax.sampling.model import load
from emv3_jax.sampling.settings import Config
from emv3_jax.training.parts import lip_sync

CLIPS, SILENCES, SWAPS = 6, 2, 3
MEBIBYTES = 20


@pytest.fixture(scope="module")
def found():
  model = load(config=build(Config, tiny.get_config()))
  return lip_sync.figures(model, lip_sync.render(CLIPS), silences=SILENCES, swaps=SWAPS)


def test_size():
  folder = pathlib.Path(tiny.get_config().checkpoint)
  assert sum(path.stat().st_size for path in folder.rglob("*")) <= MEBIBYTES * 2 ** 20


def test_mouths_follow_the_sound(found):
  assert found["r"] >= 0.8 and found["least_r"] >= 0.4 and abs(found["offset"]) <= 1


def test_silence_keeps_the_mouth_shut(found):
  assert found["silent_opening"] <= 0.1


def test_another_sound_moves_the_mouth_another_way(found):
  assert found["swapped_r"] >= 0.75 and found["swapped_excess"] <= 0.25


def test_colours_of_puppets_and_walls_stay_near(found):
  assert found["identity_ratio"] <= 3.2 and found["background_ratio"] <= 2.2
  assert found["identities"] >= 0.8
