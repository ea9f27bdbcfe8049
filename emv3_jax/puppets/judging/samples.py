"""Puppets played by a model: what it makes of held-out clips, kept on disk where that is wanted."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import hashlib
import json
import pathlib
import tempfile
import wave

import jax
import numpy as np
from PIL import Image

import emv3_jax
from emv3_jax.geometry import RATE
from emv3_jax.io.atomic import atomic_file
from emv3_jax.puppets import world
from emv3_jax.puppets.world.canvas import SIZE
from emv3_jax.puppets.world.mp4 import box_around
from emv3_jax.sampling.clip import sample
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.settings import Config, Request
from emv3_jax.tasks import face_masks

FRAMES = 65
# Of a config: where things lie and how fast they go. All else decides pixels.
_IRRELEVANT = ("name", "checkpoint", "tokenizer", "prompt_cache", "program_cache", "program_cache_mib", "mesh",
               "face_detector", "seed", "keep_parts", "enlarge")
# Of the package: what sampling does not use.
_UNUSED = ("training", "data")


@dataclasses.dataclass(frozen=True)
class Performance:
  """A clip and what a model made of it; videos are uint8 [F, 64, 64, 3], as decoded.

  Attributes:
    clip: the truth.
    spoken: made of its first frame, caption and sound.
    rebuilt: its frames through the VAE.
    swapped: as `spoken`, with the sound of `other`; None where left out.
    other: another clip.
    silent: as `spoken`, with silence; None where left out.
    text_only: made of caption and sound alone (t2v); None where left out.
  """

  clip: world.Clip
  spoken: np.ndarray
  rebuilt: np.ndarray
  swapped: np.ndarray | None = None
  other: world.Clip | None = None
  silent: np.ndarray | None = None
  text_only: np.ndarray | None = None


def render(count: int, split: str = "held_out", frames: int = FRAMES, seed: int = 0,
           first: int = 0) -> list[world.Clip]:
  """`count` clips of the world `seed`, from number `first`; held-out ones have puppets, voices and
  sentences that no training knows."""
  return [world.render_clip(world.clip_spec(seed, index, split, frames))
          for index in range(first, first + count)]


class Actor:
  """A model that plays puppets.

  Args:
    model: of the puppets' size; `text_only` wants a config that says so, see `sized`.
    folder: where videos are kept, by all that decides their pixels: weights, settings, inputs and the
      code of sampling; None keeps none.
  """

  def __init__(self, model: Model, folder: pathlib.Path | None = None):
    self._model = model
    self._folder = folder and folder / _digest_of(model)[:16]

  def speak(self, clip: world.Clip, sound: np.ndarray, seed: int = 0,
            picture: bool = True) -> np.ndarray:
    """The video [F, 64, 64, 3] uint8 that the model makes of a puppet and a sound.

    Args:
      clip: whose first frame, face box and caption are taken.
      sound: [F * 640] float32 at 16 kHz.
      seed: of the noise.
      picture: False leaves out first frame and face box: caption and sound alone (t2v).
    """
    key = (clip.caption, sound, seed) + ((clip.frames[0], self._box(clip)) if picture else ())
    return self._kept(key, lambda: self._sample(clip, sound, seed, picture))

  def request(self, clip: world.Clip, folder: str | pathlib.Path, sound: np.ndarray, seed: int = 0,
              picture: bool = True) -> Request:
    """Returns the request that `speak` samples; its files are written to `folder`."""
    image, audio = pathlib.Path(folder, "portrait.png"), pathlib.Path(folder, "sound.wav")
    write_wav(audio, sound)
    request = Request(audio=audio, prompt=clip.caption, seed=seed, task="t2v")
    if not picture:
      return request
    Image.fromarray(clip.frames[0]).save(image)
    return dataclasses.replace(request, task="i2v", image=image, face_box=self._box(clip))

  def _box(self, clip: world.Clip) -> str:
    moves = self._model.config.settings.face_mask == face_masks.MOVING
    return box_around(clip.truth.face_box[:1] if moves else clip.truth.face_box)  # as its training had it

  def rebuild(self, frames: np.ndarray) -> np.ndarray:
    """What the model's VAE makes of a video, uint8 as it is."""
    return self._kept((frames,), lambda: self._rebuild(frames))

  def _sample(self, clip: world.Clip, sound: np.ndarray, seed: int, picture: bool) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
      return sample(self._model, self.request(clip, folder, sound, seed, picture)).frames

  def _rebuild(self, frames: np.ndarray) -> np.ndarray:
    with self._model.parameters("vae") as params:
      latents = self._model.vae_encode(params, frames[None].astype(np.float32) / 127.5 - 1)
      return self._model.vae_decode(params, latents)[0]

  def _kept(self, key: tuple, make: Callable[[], np.ndarray]) -> np.ndarray:
    if self._folder is None:
      return make()
    path = self._folder / f"{_digest(key)[:32]}.npz"
    if path.is_file():
      with np.load(path) as kept:
        return kept["video"]
    video = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
      np.savez_compressed(temporary, video=video)
    return video


def perform(actor: Actor, clips: Sequence[world.Clip], *, seed: int = 0, swaps: int | None = None,
            silences: int | None = None, text_only: int | None = None) -> Iterator[Performance]:
  """Lets a model play clips.

  Args:
    actor: the model.
    clips: at least two where sounds are swapped.
    seed: of the first clip's noise; each clip has its own.
    swaps, silences, text_only: how many clips are also made with the next one's sound, with silence, of
      caption and sound alone; None is all.
  """
  within = lambda index, count: count is None or index < count
  for index, clip in enumerate(clips):
    other, noise = clips[(index + 1) % len(clips)], seed + index
    yield Performance(
        clip=clip, other=other, spoken=actor.speak(clip, clip.audio, noise),
        rebuilt=actor.rebuild(clip.frames),
        swapped=actor.speak(clip, other.audio, noise) if within(index, swaps) else None,
        silent=actor.speak(clip, np.zeros_like(clip.audio), noise) if within(index, silences) else None,
        text_only=actor.speak(clip, clip.audio, noise, False) if within(index, text_only) else None)


def sized(config: Config) -> Config:
  """`config` with the puppets' size written into it, which t2v has no picture to take from."""
  return dataclasses.replace(
      config, sampling=dataclasses.replace(config.sampling, height=SIZE, width=SIZE))


def write_wav(path: pathlib.Path, sound: np.ndarray) -> None:
  """Writes one channel of 16 kHz sound in [-1, 1] as 16-bit WAV."""
  with wave.open(str(path), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(RATE)
    file.writeframes(np.clip(np.rint(sound * 32767), -32768, 32767).astype("<i2").tobytes())


def weights_digest(model: Model) -> str:
  """SHA-256 of the parameters' files of a model's networks; of nothing where it is untrained."""
  folder, card = model.folder, model.card
  if folder is None or card is None:
    return _digest(())
  parts = sorted(path for name in card.components for path in (folder / name).rglob("*"))
  return _digest(tuple(content for path in parts if path.is_file()
                       for content in (path.relative_to(folder), path.read_bytes())))


def _digest_of(model: Model) -> str:
  """Of all that decides a model's pixels but the request."""
  package = pathlib.Path(emv3_jax.__file__).parent
  code = [path for path in sorted(package.rglob("*.py"))
          if path.relative_to(package).parts[0] not in _UNUSED]
  settings = {name: value for name, value in dataclasses.asdict(model.config).items()
              if name not in _IRRELEVANT}
  return _digest((weights_digest(model), model.tokenizer_path.read_bytes(), jax.__version__,
                  json.dumps(settings, default=str), *(path.read_bytes() for path in code)))


def _digest(parts: tuple) -> str:
  whole = hashlib.sha256()
  for part in parts:
    if isinstance(part, np.ndarray):
      part = part.tobytes()
    content = part if isinstance(part, bytes) else str(part).encode()
    whole.update(f"{len(content)} ".encode() + content)
  return whole.hexdigest()
