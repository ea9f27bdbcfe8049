"""Puppets played without a model: each test says how."""

import functools

import numpy as np

from emv3_jax.puppets.judging import samples


@functools.cache
def clips(frames=65):
  return samples.render(3, frames=frames)


class Actor:
  """Plays by `perform`: from (clip, whose sound it hears or None, whether it sees the picture)."""

  def __init__(self, perform, known):
    self._perform, self._known = perform, known

  def speak(self, clip, sound, seed=0, picture=True):
    heard = next((other for other in self._known if other.audio is sound), None)
    return self._perform(clip, heard, picture)

  def rebuild(self, frames):
    return darker(frames)


def darker(video):
  return (video * 0.96).astype(np.uint8)


def still(clip):
  return np.repeat(clip.frames[:1], len(clip.frames), axis=0)


def faultless(clip, heard, picture):
  """Says what it hears, with the looks of the clip where it may see it; silence keeps it still."""
  return darker(heard.frames) if heard else still(clip)
