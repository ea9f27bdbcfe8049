"""Frames, latents, pixels and tokens of a clip."""

import pathlib
import re

import pytest

from emv3_jax import geometry


def test_frames_that_are_sampled():
  counts = (1, 2, 4, 5, 6, 81, 82)
  assert [geometry.sample_frames(n) for n in counts] == [1, 5, 5, 5, 9, 81, 85]
  assert [geometry.whole_frames(n) for n in counts] == [1, 1, 1, 5, 5, 81, 81]
  assert [geometry.is_clip_length(n) for n in counts] == [True, False, False, True, False, True, False]


@pytest.mark.parametrize("frames, latents", [(1, 1), (5, 2), (81, 21), (113, 29)])
def test_latents_of_a_clip(frames, latents):
  assert geometry.latent_frames(frames) == latents and geometry.frames_of(latents) == frames


def test_sizes_of_a_picture():
  size8 = geometry.latent_size((480, 832))
  assert size8 == (60, 104) and geometry.pixel_size(size8) == (480, 832)
  assert geometry.token_grid((480, 832)) == geometry.grid_of_latents(size8) == (30, 52)


# What the rooms below the networks' own arithmetic may not spell out again.
_AGAIN = re.compile(r"\) // 4 \+ 1|4 \* \(\w+ - 1\) \+ 1|height8? // (2|8|16)|width // (8|16)|size\[\d\] // (8|16)|\b8 \* (height|width)"
                    r"|= (25|16_000|16000|1000\.0)(  #.*)?$|% 4 (!=|==) 1|side % 16", re.MULTILINE)
_PACKAGE = pathlib.Path(geometry.__file__).parent


def test_each_number_is_written_once():
  """The networks' layers are the released ones', and have their own strides."""
  for path in sorted(_PACKAGE.rglob("*.py")):
    if path.parent.name != "models" and path.name != "geometry.py":
      found = _AGAIN.search(path.read_text(encoding="utf-8"))
      assert not found, f"{path.relative_to(_PACKAGE)} has {found.group()!r}; see geometry.py"
