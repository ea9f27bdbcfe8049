"""Encoding of windows in batches of one shape, with the same programs as in sampling."""

from collections.abc import Iterable, Iterator, Sequence
import itertools

import numpy as np

from emv3_jax import geometry, tasks, variants
from emv3_jax.conditioning import audio as audio_lib
from emv3_jax.conditioning import image as image_lib
from emv3_jax.conditioning import text as text_lib
from emv3_jax.preparation.footage import Footage, Window
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.sampling.clip import LENGTH_STEP
from emv3_jax.sampling.model import Model
from emv3_jax.tasks import ReferenceImage, masks


def encode_texts(model: Model, tokenizer: text_lib.Tokenizer, texts: Iterable[str],
                 batch: int) -> dict[str, np.ndarray]:
  """Encodes texts to umT5 states, float32 [m, text_dim], without padding.

  Texts of more than the network's `text_tokens` are truncated, with a warning.
  """
  length = model.config.model.transformer.text_tokens
  texts = sorted(set(texts), key=lambda text: (len(text), text))  # similar lengths together
  states = {}
  for part in _chunks(texts, batch):
    ids, mask = tokenizer.tokenize([*part, *[""] * (batch - len(part))], length)
    used = min(length, -(-int(mask.sum(axis=1).max()) // LENGTH_STEP) * LENGTH_STEP)
    hidden = model.encode_tokens(ids[:, :used], mask[:, :used])
    states |= {text: hidden[row, mask[row, :used]] for row, text in enumerate(part)}
  return states


def encode_images(model: Model, windows: Sequence[Window], batch: int) -> list[np.ndarray]:
  """Encodes the k kinds of `ReferenceImage` of each window to CLIP states, float32 [k, image_tokens, image_dim]."""
  pictures = [picture for window in windows for picture in _reference_images(window)]
  states = []
  with model.parameters("image_encoder") as params:
    for part in _chunks(pictures, batch):
      pixels = np.stack([image_lib.clip_vision_pixels(picture) for picture in _padded(part, batch)])
      states += list(model.encode("image_encoder", params, pixels)[:len(part)])
  return [np.stack(pictures) for pictures in _chunks(states, len(ReferenceImage))]


def encode_sounds(model: Model, footage: Sequence[Footage], settings: PrepareConfig
                  ) -> list[np.ndarray]:
  """Computes wav2vec2 features, float32, of each window of each clip, with the sound around it as context.

  Sound of up to `sound_frames` is encoded as a whole, as in sampling.

  Returns:
    Features from `Variant.crop_features`, e.g. for preview [2F, dim].
  """
  features, variant = [], variants.of(model.config.model.transformer.variant)
  with model.parameters("audio_encoder") as params:
    for clip in footage:
      frames_of_sound = audio_lib.num_frames(clip.voice.seconds)
      if frames_of_sound <= settings.sound_frames:
        whole = _features(model, params, clip.voice.samples, geometry.sample_frames(frames_of_sound))
        features += [variant.crop_features(whole, window.start, settings.frames) for window in clip.windows]
        continue
      for window in clip.windows:
        middle = window.start + settings.frames // 2 - settings.sound_frames // 2
        first = min(max(middle, 0), frames_of_sound - settings.sound_frames)
        samples = clip.voice.samples[_sample(first):_sample(first + settings.sound_frames)]
        around = _features(model, params, samples, settings.sound_frames)
        features.append(variant.crop_features(around, window.start - first, settings.frames))
  return features


def encode_videos(model: Model, windows: Iterable[tuple[Window, np.ndarray]],
                  batch: int) -> Iterator[tuple[Window, np.ndarray]]:
  """(window, latents float32 [1 + n, f, h8, w8, 16]): of the video and of what each of the n tasks of
  `tasks.precomputed()` knows of it.

  Args:
    windows: (window, uint8 [F, H, W, 3]), all of one size; taken as they are needed.
  """
  waiting: list[Window] = []
  count = 1 + len(tasks.precomputed())

  def videos():
    for window, frames in windows:
      waiting.append(window)
      yield from _videos(window, frames)

  encoded: list[np.ndarray] = []
  with model.parameters("vae") as params:
    for part in _chunks(videos(), batch):
      encoded += list(model.vae_encode(params, np.stack(_padded(part, batch)))[:len(part)])
      while len(encoded) >= count:
        yield waiting.pop(0), np.stack(encoded[:count])
        del encoded[:count]


def _reference_images(window: Window) -> Iterator[np.ndarray]:
  """Yields the first frame in the order of `ReferenceImage`."""
  pixels = image_lib.to_pixels(window.first)
  masked = masks.masked_video(pixels[None], masks.outside_mouth(window.inpainted[:1], 1))[0]
  pictures = {ReferenceImage.FIRST: window.first, ReferenceImage.FIRST_MASKED: masked}
  for kind in ReferenceImage:
    yield pictures[kind]


def _videos(window: Window, frames: np.ndarray) -> Iterator[np.ndarray]:
  video = image_lib.to_pixels(frames)
  yield video
  for task in tasks.precomputed():
    yield masks.masked_video(video, task.condition_mask(len(video), mouth=window.inpainted))


def _features(model: Model, params, samples: np.ndarray, frames: int) -> np.ndarray:
  """Computes the features [n, ...] of a recording, as in sampling."""
  variant = variants.of(model.config.model.transformer.variant)
  return model.encode("audio_encoder", params, variant.waveform(samples, frames, model.normalises_waveform)[None],
                      **variant.encoder_options(frames))[0]


def _sample(frame: int) -> int:
  return frame * geometry.RATE // geometry.FPS


def _chunks(items: Iterable, size: int) -> Iterator[list]:
  """Lists of `size` items, the last one shorter."""
  items = iter(items)
  while part := list(itertools.islice(items, size)):
    yield part


def _padded(part: list, size: int) -> list:
  """`part` with its last item repeated up to `size`, so that a program compiles once."""
  return part + part[-1:] * (size - len(part))
