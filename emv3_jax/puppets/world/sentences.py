"""The sentences that ship with the package, spoken by synthetic voices.

`assets/speech/index.json` lists them; `scripts/make_assets.py` speaks them again from that list.
"""

import dataclasses
import functools
import json
import pathlib

import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS, RATE
from emv3_jax.io.audio_files import read_audio
from emv3_jax.io.resampling import resample

SAMPLES_PER_FRAME = RATE // FPS
SPEECH_DIR = pathlib.Path(__file__).parents[2] / "assets" / "speech"


@dataclasses.dataclass(frozen=True)
class Sentence:
  """One recording.

  Attributes:
    name: unique; its file is `NAME.opus`.
    split: "train" or "held_out"; no voice and no text is in both.
    voice, words_per_minute, pitch: as espeak-ng takes them.
    language: its English name.
    text: what is said.
    frames: length in video frames.
  """

  name: str
  split: str
  voice: str
  language: str
  words_per_minute: int
  pitch: int
  text: str
  frames: int


@functools.cache
def sentences(split: str) -> tuple[Sentence, ...]:
  """All recordings of "train" or "held_out", in the order of the index."""
  if split not in ("train", "held_out"):
    raise InputError(f"no split {split!r} of the puppets' sentences; there are train and held_out")
  rows = json.loads((SPEECH_DIR / "index.json").read_text(encoding="utf-8"))
  return tuple(Sentence(**row) for row in rows if row["split"] == split)


@functools.cache
def sentence(name: str) -> Sentence:
  """The recording of that name."""
  for candidate in sentences("train") + sentences("held_out"):
    if candidate.name == name:
      return candidate
  raise InputError(f"no sentence {name!r} in {SPEECH_DIR / 'index.json'}")


@functools.cache
def speech(name: str) -> np.ndarray:
  """Sound of a sentence, [frames * 640] float32 at 16 kHz, already levelled; do not write to it."""
  samples, rate = read_audio(SPEECH_DIR / f"{name}.opus")
  samples = resample(samples.mean(1), rate, RATE).astype(np.float32)
  whole = np.zeros(sentence(name).frames * SAMPLES_PER_FRAME, np.float32)
  samples = samples[:len(whole)]
  whole[:len(samples)] = samples
  whole.flags.writeable = False
  return whole
