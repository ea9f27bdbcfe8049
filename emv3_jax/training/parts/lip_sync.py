"""What the small default has to show: held-out puppets that speak, read back and held to the truth."""

from collections.abc import Sequence
import pathlib
import tempfile
import wave

import numpy as np
from PIL import Image

from emv3_jax.data import puppets
from emv3_jax.data.puppets import readers
from emv3_jax.data.puppets.mp4 import box_around
from emv3_jax.data.puppets.sentences import RATE
from emv3_jax.sampling.clip import sample
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.settings import Request
from emv3_jax.training.parts.gates import correlation

FRAMES = 65
NEAR, FAR = 1, 5  # offsets, in frames, at which lips count as in time, and that are looked at
SETTLED = 4  # frames after which a mouth that was open in the portrait has to be shut


def render(count: int, split: str = "held_out", frames: int = FRAMES,
           seed: int = 0) -> list[puppets.Clip]:
  """The first `count` clips of the world `seed`; held-out ones have puppets, voices and sentences
  that no training knows."""
  return [puppets.render_clip(puppets.clip_spec(seed, index, split, frames))
          for index in range(count)]


def speak(model: Model, clip: puppets.Clip, sound: np.ndarray, seed: int = 0) -> np.ndarray:
  """The video [F, 64, 64, 3] uint8 that the model makes of a puppet's first frame and a sound.

  Args:
    model: of the puppets' size.
    clip: whose first frame, face box and caption are taken.
    sound: [F * 640] float32 at 16 kHz.
    seed: of the noise.
  """
  with tempfile.TemporaryDirectory() as folder:
    image, audio = pathlib.Path(folder, "portrait.png"), pathlib.Path(folder, "sound.wav")
    Image.fromarray(clip.frames[0]).save(image)
    write_wav(audio, sound)
    return sample(model, Request(
        audio=audio, image=image, prompt=clip.caption, face_box=box_around(clip.truth.face_box),
        seed=seed)).frames


def write_wav(path: pathlib.Path, sound: np.ndarray) -> None:
  """Writes one channel of 16 kHz sound in [-1, 1] as 16-bit WAV."""
  with wave.open(str(path), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(RATE)
    file.writeframes(np.clip(np.rint(sound * 32767), -32768, 32767).astype("<i2").tobytes())


def figures(model: Model, clips: Sequence[puppets.Clip], *, swaps: int | None = None,
            silences: int | None = None) -> dict[str, float]:
  """How well the model's puppets speak.

  Args:
    model: of the puppets' size.
    clips: at least two.
    swaps, silences: how many of them are also made with another one's sound, with silence; None is
      all, 0 leaves out what they show.

  Returns:
    r: of the opening seen and the true one, the best within NEAR frames; the median of the clips;
    least_r: the least of them;
    offset: frames by which the mouth is late where the clips' median r is greatest, within FAR;
    silent_opening: greatest mean opening of a puppet that hears silence, from frame SETTLED on;
    swapped_r: median r with the sound that is heard, of puppets that hear another clip's;
    swapped_excess: median of their r with the sound of their own clip less what the two true
      curves have in common;
    identity_ratio, background_ratio: colours of skin and hair, pixels of the wall: mean error over
      that of the VAE's reconstructions of the true clips;
    identities, vae_identities: share of clips in which the puppet is recognised.
  """
  curves = [clip.truth.opening for clip in clips]
  videos = [speak(model, clip, clip.audio) for clip in clips]
  rebuilt = [reconstruct(model, clip.frames) for clip in clips]
  seen = [readers.opening(video) for video in videos]
  late = {offset: [_late(*pair, offset) for pair in zip(seen, curves, strict=True)]
          for offset in range(-FAR, FAR + 1)}
  near = np.max([late[offset] for offset in range(-NEAR, NEAR + 1)], axis=0)
  errors = {name: np.mean([_errors(video, clip) for video, clip in zip(made, clips, strict=True)], 0)
            for name, made in (("model", videos), ("vae", rebuilt))}
  share = lambda made: float(np.mean([readers.identity(video) == clip.truth.identity
                                      for video, clip in zip(made, clips, strict=True)]))
  identity, background = errors["model"] / errors["vae"]
  return {
      "r": float(np.median(near)), "least_r": float(near.min()),
      "offset": max(late, key=lambda offset: np.median(late[offset])),
      **({} if silences == 0 else {"silent_opening": silent_opening(model, clips[:silences])}),
      **_swapped(model, clips, len(clips) if swaps is None else swaps),
      "identity_ratio": float(identity), "background_ratio": float(background),
      "identities": share(videos), "vae_identities": share(rebuilt)}


def silent_opening(model: Model, clips: Sequence[puppets.Clip]) -> float:
  """The greatest mean opening of puppets that hear nothing."""
  return max(float(readers.opening(speak(model, clip, np.zeros_like(clip.audio)))[SETTLED:].mean())
             for clip in clips)


def reconstruct(model: Model, frames: np.ndarray) -> np.ndarray:
  """What the model's VAE makes of a video, uint8 as it is."""
  with model.parameters("vae") as params:
    latents = model.vae_encode(params, frames[None].astype(np.float32) / 127.5 - 1)
    return model.vae_decode(params, latents)[0]


def _swapped(model: Model, clips: Sequence[puppets.Clip], count: int) -> dict[str, float]:
  if not count:
    return {}
  new, excess = [], []
  for index in range(count):
    clip, other = clips[index], clips[(index + 1) % len(clips)]
    seen = readers.opening(speak(model, clip, other.audio))
    heard, own = other.truth.opening, clip.truth.opening
    new.append(max(_late(seen, heard, offset) for offset in range(-NEAR, NEAR + 1)))
    excess.append(correlation(seen, own) - correlation(heard, own))
  return {"swapped_r": float(np.median(new)), "swapped_excess": float(np.median(excess))}


def _late(seen: np.ndarray, true: np.ndarray, offset: int) -> float:
  """r of what is seen `offset` frames late."""
  if offset < 0:
    return correlation(seen[:offset], true[-offset:])
  return correlation(seen[offset:], true[:len(true) - offset])


def _errors(video: np.ndarray, clip: puppets.Clip) -> np.ndarray:
  """Mean absolute errors [2] of a puppet's colours and of its wall, 0..255."""
  seen, true = readers.colours(video), readers.colours(clip.frames)
  puppet = np.mean([np.abs(getattr(seen, part) - np.median(getattr(true, part), axis=0))
                    for part in ("skin", "hair")])
  wall = readers.wall_error(video, clip.truth.background, clip.truth.pattern)
  return np.array([puppet, wall])
