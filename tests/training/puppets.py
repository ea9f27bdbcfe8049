"""Puppets as training batches without the encoders: latents are whitened principal components."""

import dataclasses
import functools
import zlib

import numpy as np

from configs.tiny import MODEL
from emv3_jax.puppets.world import ClipSpec, caption, clip_spec, readers, render_clip
from emv3_jax.training.batch import Batch

FRAMES, GRID = 17, (5, 4, 4)  # video frames; latent frames, rows and columns of tokens
TINY = MODEL.transformer
SMALLER = dataclasses.replace(TINY, dim=96, ffn_dim=384, num_heads=4, num_layers=4)


def specs(count: int, *, first: int = 0, split: str = "train", flaw: str = "") -> list[ClipSpec]:
  """Clips of the world that differ by nothing but the flaw from those of another flaw."""
  drawn = (clip_spec(0, first + index, split, FRAMES) for index in range(count))
  return [dataclasses.replace(spec, flaw=flaw, fingers=min(spec.fingers, 4)) for spec in drawn]


_clip = functools.lru_cache(maxsize=4096)(render_clip)


def _cells(spec: ClipSpec) -> np.ndarray:
  """[f, 8, 8, 768]: the pixels of every latent cell."""
  frames = _clip(spec).frames.astype(np.float32) / 127.5 - 1
  frames = np.concatenate([np.repeat(frames[:1], 3, axis=0), frames])
  cells = frames.reshape(-1, 4, 8, 8, 8, 8, 3)
  return np.einsum("ftyhxwc->fyxthwc", cells).reshape(-1, 8, 8, 768)


@functools.cache
def _components() -> tuple[np.ndarray, np.ndarray]:
  """Mean [768] and scaled directions [768, 16] of the cells of some clips."""
  flaws = ("", "colour drift")
  cells = np.concatenate([_cells(spec).reshape(-1, 768)
                          for flaw in flaws for spec in specs(24, first=9000, flaw=flaw)])
  mean = cells.mean(axis=0)
  variances, directions = np.linalg.eigh(np.cov((cells - mean).T))
  return mean, (directions[:, -16:] / np.sqrt(variances[-16:])).astype(np.float32)


def latents(spec: ClipSpec) -> np.ndarray:
  """[f, 8, 8, 16] float32, of unit variance over clips."""
  mean, directions = _components()
  return (_cells(spec) - mean) @ directions


def drifts(spec: ClipSpec) -> bool:
  """Whether the reader, who sees pixels only, finds that the colours of a clip drift."""
  return readers.drift(_clip(spec).frames) > 20


def _text(spec: ClipSpec) -> np.ndarray:
  """A random vector for every word; what a flaw is called is not among them."""
  words = caption(dataclasses.replace(spec, flaw="")).split()[:TINY.text_tokens]
  text = np.zeros((TINY.text_tokens, TINY.text_dim), np.float32)
  for i, word in enumerate(words):
    text[i] = np.random.default_rng(zlib.crc32(word.encode())).normal(size=TINY.text_dim)
  return text


@functools.lru_cache(maxsize=4096)
def row(spec: ClipSpec, number: int) -> dict[str, np.ndarray]:
  """One example of image to video."""
  clean, (f, h, w) = latents(spec), GRID
  mask = np.zeros((f, 2 * h, 2 * w, 4), np.float32)
  mask[0] = 1
  return {
      "latents": clean, "mask": mask, "masked_latents": clean * mask[..., :1], "text": _text(spec),
      "image": np.zeros((TINY.image_tokens, TINY.image_dim), np.float32),
      "audio": np.repeat(_clip(spec).truth.opening, 2 * TINY.audio_dim).reshape(
          2 * FRAMES, TINY.audio_dim),
      "face_mask": np.ones(h * w, np.float32), "mouth_mask": np.zeros((f, 2 * h, 2 * w), np.float32),
      "task": np.int32(1), "example": np.uint32(number)}


def batch(rows: list[dict[str, np.ndarray]]) -> Batch:
  return Batch(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})
