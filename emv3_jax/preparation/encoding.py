"""Windows through the encoders, in batches of one shape: the same programs as in sampling."""

from collections.abc import Iterable, Iterator, Sequence
import itertools

import numpy as np

from emv3_jax.conditioning import audio as audio_lib
from emv3_jax.conditioning import image as image_lib
from emv3_jax.conditioning import text as text_lib
from emv3_jax.preparation.footage import Footage, Window
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.sampling.clip import LENGTH_STEP
from emv3_jax.sampling.model import Model
from emv3_jax.tasks import masks
from emv3_jax.tasks.masks import Task

_CONTEXT = audio_lib.WINDOW // 2


def encode_texts(model: Model, tokenizer: text_lib.Tokenizer, texts: Iterable[str],
                 batch: int) -> dict[str, np.ndarray]:
  """umT5 states float32 [m, text_dim] of each text, without padding.

  Texts of more than the network's `text_tokens` are cut, with a warning.
  """
  length = model.config.model.transformer.text_tokens
  texts = sorted(set(texts), key=lambda text: (len(text), text))  # like lengths together
  states = {}
  for part in _parts(texts, batch):
    ids, mask = tokenizer.tokenize([*part, *[""] * (batch - len(part))], length)
    used = min(length, -(-int(mask.sum(axis=1).max()) // LENGTH_STEP) * LENGTH_STEP)
    hidden = model.encode_tokens(ids[:, :used], mask[:, :used])
    states |= {text: hidden[row, mask[row, :used]] for row, text in enumerate(part)}
  return states


def encode_images(model: Model, windows: Sequence[Window], batch: int) -> list[np.ndarray]:
  """CLIP states float32 [2, image_tokens, image_dim] of each window's first frame: as it is, and
  with what lip-sync draws anew in mid grey."""
  pictures = [picture for window in windows for picture in _two_pictures(window)]
  states = []
  with model.parameters("image_encoder") as params:
    for part in _parts(pictures, batch):
      pixels = np.stack([image_lib.clip_pixels(picture) for picture in _filled(part, batch)])
      states += list(model.encode("image_encoder", params, pixels)[:len(part)])
  return [np.stack(pair) for pair in _parts(states, 2)]


def encode_sounds(model: Model, footage: Sequence[Footage], settings: PrepareConfig
                  ) -> list[np.ndarray]:
  """wav2vec2 features float32 of each window of each clip, with the sound around it as context.

  Sound of up to `sound_frames` is encoded whole, exactly as sampling does with that recording.

  Returns:
    preview [2F, dim]; flash [F + 4, layers, dim], with two frames of context to either side.
  """
  features = []
  with model.parameters("audio_encoder") as params:
    for clip in footage:
      heard = audio_lib.num_frames(clip.voice.seconds)
      if heard <= settings.sound_frames:
        whole = _features(model, params, clip.voice.samples, audio_lib.sample_frames(heard))
        features += [_cut(model, whole, window.start, settings.frames) for window in clip.windows]
        continue
      for window in clip.windows:
        middle = window.start + settings.frames // 2 - settings.sound_frames // 2
        first = min(max(middle, 0), heard - settings.sound_frames)
        samples = clip.voice.samples[_sample(first):_sample(first + settings.sound_frames)]
        around = _features(model, params, samples, settings.sound_frames)
        features.append(_cut(model, around, window.start - first, settings.frames))
  return features


def encode_videos(model: Model, windows: Iterable[tuple[Window, np.ndarray]],
                  batch: int) -> Iterator[tuple[Window, np.ndarray]]:
  """(window, latents float32 [4, f, h8, w8, 16]): of the video and of what `records.MASKED_TASKS`
  know of it.

  Args:
    windows: (window, uint8 [F, H, W, 3]), all of one size; taken as they are needed.
  """
  waiting: list[Window] = []

  def videos():
    for window, frames in windows:
      waiting.append(window)
      yield from _four_videos(window, frames)

  encoded: list[np.ndarray] = []
  with model.parameters("vae") as params:
    for part in _parts(videos(), batch):
      encoded += list(model.vae_encode(params, np.stack(_filled(part, batch)))[:len(part)])
      while len(encoded) >= 4:
        yield waiting.pop(0), np.stack(encoded[:4])
        del encoded[:4]


def _two_pictures(window: Window) -> tuple[np.ndarray, np.ndarray]:
  pixels = image_lib.to_pixels(window.first)
  return window.first, masks.masked_video(pixels[None], ~window.redrawn[None])[0]


def _four_videos(window: Window, frames: np.ndarray) -> Iterator[np.ndarray]:
  video = image_lib.to_pixels(frames)
  yield video
  for task in (Task.I2V, Task.FLF2V):
    yield masks.masked_video(video, masks.known_frames(task, len(video)))
  yield masks.masked_video(video, masks.known_pixels(window.redrawn, len(video)))


def _features(model: Model, params, samples: np.ndarray, frames: int) -> np.ndarray:
  """Features of a recording as sampling makes them: preview [2F, dim], flash [F, layers, dim]."""
  if model.config.model.transformer.variant == "flash":
    waveform = audio_lib.flash_waveform(samples, frames)
    return model.encode("audio_encoder", params, waveform[None], frames=frames, layers="all")[0]
  waveform = audio_lib.preview_waveform(samples, frames, model.normalises_waveform)
  return model.encode("audio_encoder", params, waveform[None])[0]


def _cut(model: Model, features: np.ndarray, start: int, frames: int) -> np.ndarray:
  if model.config.model.transformer.variant == "flash":
    around = np.arange(start - _CONTEXT, start + frames + _CONTEXT)
    return features[around.clip(0, len(features) - 1)]
  return features[2 * start:2 * (start + frames)]


def _sample(frame: int) -> int:
  return frame * audio_lib.RATE // audio_lib.FPS


def _parts(items: Iterable, size: int) -> Iterator[list]:
  """Lists of `size` items, the last one shorter."""
  items = iter(items)
  while part := list(itertools.islice(items, size)):
    yield part


def _filled(part: list, size: int) -> list:
  """`part` with its last item repeated up to `size`, so that a program compiles once."""
  return part + part[-1:] * (size - len(part))
