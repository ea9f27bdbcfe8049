"""The hair's shape is read at the end of a clip, whatever the head did."""

import dataclasses

import numpy as np
import pytest

from emv3_jax.puppets import world
from emv3_jax.puppets.judging import hair
from emv3_jax.puppets.judging.samples import Performance
from emv3_jax.puppets.world.identities import BY_NAME


def spec_of(name, seed=0):
  return dataclasses.replace(world.clip_spec(3, 0, "held_out", 16), identity=BY_NAME[name], seed=seed)


@pytest.mark.parametrize("name", ["Iris", "Jomo", "Kai", "Lux", "Cleo", "Gia", "Dex"])
def test_every_style_is_recognised_in_a_moving_puppet(name):
  clip = world.render_clip(spec_of(name, seed=8))
  assert hair.style(clip.frames, clip.truth) == BY_NAME[name].hair_style


def test_hair_that_is_cut_in_the_middle_of_a_clip_is_found():
  clip = world.render_clip(spec_of("Lux"))
  cut = dataclasses.replace(BY_NAME["Lux"], hair_style="short")
  short = world.render_clip(dataclasses.replace(spec_of("Lux"), identity=cut))
  video = np.concatenate([clip.frames[:8], short.frames[8:]])
  found = hair.row(Performance(clip=clip, spoken=video, rebuilt=clip.frames))
  assert found["hair_shape/vae"] == found["hair_style/vae"] == 1
  assert found["hair_style"] == 0 and found["hair_shape"] < 0.7
