"""Puppets that the small default can be tried with, drawn when they are asked for."""

import dataclasses
import io

import numpy as np
from PIL import Image
from scipy.io import wavfile

from emv3_jax.geometry import RATE
from emv3_jax.puppets.world import clips, render

COUNT = 3
_SEED, _FRAMES = 2026, 49  # about two seconds
_INDICES = (0, 1, 2)  # of held-out clips


@dataclasses.dataclass(frozen=True)
class Example:
  """A portrait (PNG), a voice (WAV), and what goes with them."""

  portrait: bytes
  voice: bytes
  prompt: str
  face_box: str


def example(number: int) -> Example:
  """Returns puppet `number` (0 to 2); training has seen none of them, nor their voices."""
  clip = render.render_clip(clips.clip_spec(_SEED, _INDICES[number], "held_out", _FRAMES))
  picture, sound = io.BytesIO(), io.BytesIO()
  Image.fromarray(clip.frames[0]).save(picture, format="PNG")
  wavfile.write(sound, RATE, np.float32(clip.audio))
  box = ",".join(str(int(edge)) for edge in clip.truth.face_box[0])
  return Example(picture.getvalue(), sound.getvalue(), clip.caption, box)
