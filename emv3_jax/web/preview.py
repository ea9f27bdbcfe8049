"""Previews of a clip that is being sampled: one frame of its clean estimate, as a PNG."""

from collections.abc import Callable, Iterator
import pathlib
import time
from typing import Any

from jaxtyping import Float32
import numpy as np
from PIL import Image

from emv3_jax.io import atomic
from emv3_jax.sampling.model import Model

SHARE = 0.05  # of the time of sampling, most that previews take
LEAST = 1.0  # seconds between two previews
SIDE = 384  # pixels of the longer side, most; smaller pictures are enlarged by a whole factor


class WatchedSteps:
  """Steps of one clip that tell their number and write previews.

  A preview is the frame in the middle of the clean estimate, along the line through the latents before and after
  the step, as the VAE decodes it. The VAE is loaded for it where networks are not kept.

  Args:
    steps: the step indices.
    model: whose VAE decodes.
    tell: is given (number of steps that are done, of all).
    check: is called before each step; what it raises ends the clip.
    path: where previews are written; None writes none.
    seen: is called after a preview was written.
  """

  def __init__(self, steps: Any, model: Model, tell: Callable[[int, int], None], check: Callable[[], None],
               path: pathlib.Path | None, seen: Callable[[], None]):
    self._steps, self._model, self._tell, self._check = steps, model, tell, check
    self._path, self._seen = path, seen
    self._number, self._before, self._next = 0, None, 0.0
    self._sigmas = np.asarray(model.denoiser().solver.schedule.sigmas)

  def __len__(self) -> int:
    return len(self._steps)

  def __iter__(self) -> Iterator[int]:
    self._number, self._before = 0, None
    self._tell(0, len(self._steps))
    for step in self._steps:
      self._check()
      yield step
      self._number += 1
      self._tell(self._number, len(self._steps))

  def show(self, latents: Any) -> None:
    """Writes a preview of latents [..., f, H8, W8, c] after a step, if it is time."""
    if self._path is None:
      return
    frames = latents.reshape(-1, *latents.shape[-3:])
    frame = np.asarray(frames[len(frames) // 2])
    before, self._before = self._before, frame
    begin = time.monotonic()
    if before is None or begin < self._next:
      return
    sigma, after = self._sigmas[self._number], self._sigmas[self._number + 1]
    write(self._path, decoded(self._model, clean_estimate(before, frame, sigma, after)))
    spent = time.monotonic() - begin
    self._next = time.monotonic() + max(LEAST, spent / SHARE)
    self._seen()


def clean_estimate(before: Float32[np.ndarray, "H8 W8 c"], after: Float32[np.ndarray, "H8 W8 c"], sigma: float,
                   next_sigma: float) -> Float32[np.ndarray, "H8 W8 c"]:
  """Follows the line through the latents at two levels of noise to level 0.

  Args:
    before, after: latents before and after a step.
    sigma, next_sigma: their levels, the second below the first.
  """
  velocity = (after - before) / (next_sigma - sigma)
  return np.asarray(after - next_sigma * velocity, np.float32)


def decoded(model: Model, latent: Float32[np.ndarray, "H8 W8 c"]) -> np.ndarray:
  """Decodes one latent frame to a picture, uint8 [H, W, 3]."""
  with model.parameters("vae") as params:
    return next(model.vae_decode_groups(params, iter([latent[None, None]])))[0, 0]


def write(path: pathlib.Path, picture: np.ndarray) -> None:
  """Writes a picture as a PNG of at most `SIDE` pixels a side, whole or not at all."""
  image = Image.fromarray(picture)
  factor = SIDE // max(image.size)
  if factor >= 2:
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
  elif not factor:
    image.thumbnail((SIDE, SIDE))
  with atomic.atomic_file(path) as temporary:
    image.save(temporary, format="PNG")
