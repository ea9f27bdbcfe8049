"""Long Video CFG, eqs. 4-5 of the paper: a clip that is longer than a window is denoised by windows that
overlap, and in the overlap the answers of two windows are combined.

Positions count latent frames. A window w has L of them, two neighbours share N. With f = 0..N-1 over the
shared frames the earlier window has weight alpha = 1 - f / N and the later one f / N, so that

    V_c = sum_w alpha_w v_w,c     of each guidance branch c (un, text, full).

The modes differ in what the solver steps along:

  blended         sum_w alpha_w v_w, with v_w the guided velocity of window w
  paper           v_w,full + (g - 1) (V_text - v_w,un) + (g_a - 1) (V_full - v_w,text)
  paper_literal   the same with g and g_a, as printed, in the overlap
  released        the released weights f / (N - 1), and at step 0 the later window alone
  chunked         no latents are shared: window after window in pixels, see `sampling.chunks`

Where the windows agree, `blended`, `paper` and `released` are plain guidance. In eq. 4 w is the window
whose alpha is larger, of equal ones the earlier: latents are shared, so that a frame has one velocity. (If
each window took its own v_w and the results were blended, eq. 4 would be `blended` exactly.) The released
code blends latents after the step; Euler's step is linear in the velocity, so that velocities blended with
the same weights give the same latents, and other solvers keep one history for the whole clip.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.diffusion import guidance
from emv3_jax.diffusion.guidance import FULL, TEXT_ONLY, UNGUIDED, Branches, Scale

MODES = ("blended", "paper", "paper_literal", "released", "chunked")


class Window(NamedTuple):
  """Latent frames start, ..., stop - 1 of a clip."""

  start: int
  stop: int

  @property
  def length(self) -> int:
    return self.stop - self.start


class Weights(NamedTuple):
  """Weights of a window's latent frames in the velocity of the clip, each float32 [L], of b windows [b, L].

  Attributes:
    alpha: of the velocities that are blended; over all windows they sum to 1 in every frame.
    own: 1 where the window is w of eq. 4, else 0; they sum to 1 as well.
    shared: 1 where another window has the frame too, else 0.
  """

  alpha: Any
  own: Any
  shared: Any


def place(total: int, length: int, overlap: int, mode: str = "blended") -> tuple[Window, ...]:
  """Places windows over a clip.

  Args:
    total: latent frames of the clip.
    length: L, latent frames of a window.
    overlap: N, latent frames that neighbours share, from 1 to L - 1.
    mode: `released` and `chunked` place a window every L - N frames and cut the last one at the end of the
      clip, as released. The others have as many windows, all of length L (one shape for one compiled
      program), spread evenly, so that neighbours share N frames or more.

  Returns:
    The windows in order; one, shorter than L perhaps, where the clip is not longer than a window.

  Raises:
    ValueError: `overlap` or `total` is out of range.
  """
  if not 1 <= overlap < length or total < 1:
    raise ValueError(f"{total} frames by windows of {length} that share {overlap}: from 1 to "
                     f"{length - 1} shared frames are possible.")
  if total <= length:
    return (Window(0, total),)
  number = 1 + -(-(total - length) // (length - overlap))
  if mode in ("released", "chunked"):
    starts = [index * (length - overlap) for index in range(number)]
  else:
    starts = [index * (total - length) // (number - 1) for index in range(number)]
  return tuple(Window(start, min(start + length, total)) for start in starts)


def weights(windows: Sequence[Window], mode: str = "blended", step: int = 1) -> list[Weights]:
  """Computes the weights of every window at a step.

  A window is laid over those before it with a ramp from 0 over the frames that it shares with its
  predecessor: alpha of the design where two windows meet, and a sum of 1 where three do.

  Args:
    windows: of `place`.
    mode: `released` has ramps that reach 1 at the last shared frame, and at step 0 none; others f / N.
    step: index of the solver step.
  """
  total = windows[-1].stop
  table = np.zeros((len(windows), total), np.float64)
  covered, count = 0, np.zeros(total, int)
  for index, (start, stop) in enumerate(windows):
    share = covered - start
    ramp = np.ones(stop - start)
    if share > 0:
      ramp[:share] = _ramp(share, mode, step)
    table[:index, start:stop] *= 1 - ramp
    table[index, start:stop] = ramp
    count[start:stop] += 1
    covered = stop
  owner = table.argmax(axis=0)
  return [Weights(alpha=table[index, start:stop].astype(np.float32),
                  own=(owner[start:stop] == index).astype(np.float32),
                  shared=(count[start:stop] > 1).astype(np.float32))
          for index, (start, stop) in enumerate(windows)]


def _ramp(share: int, mode: str, step: int) -> np.ndarray:
  if mode != "released":
    return np.arange(share) / share
  return np.ones(share) if step == 0 else np.linspace(0, 1, share)


def contribution(branches: Branches, mode: str, velocities: Float[AnyArray, "branches b L *cell"],
                 weights: Weights, text_scale: Scale, audio_scale: Scale
                 ) -> Float[AnyArray, "b L *cell"]:
  """What windows add to the velocity of the clip; the sum over all windows is that velocity.

  Args:
    branches: that ran at the step, of `Guidance.schedule` with this mode.
    mode: any but `chunked`.
    velocities: of these branches, for b windows.
    weights: of these windows, each [b, L].
    text_scale, audio_scale: g and g_a of the step.
  """
  cells = (1,) * (velocities.ndim - 3)
  alpha, own, shared = (x.reshape(*x.shape, *cells) for x in weights)
  if mode in ("blended", "released") or len(branches) == 1:
    return alpha * guidance.mix(branches, velocities, text_scale, audio_scale)
  literal = shared if mode == "paper_literal" else 0.0
  on_text, on_audio = text_scale - 1 + literal, audio_scale - 1 + literal
  said = dict(zip(branches, velocities, strict=True))
  base, moved = said[FULL] - on_audio * said[TEXT_ONLY], on_audio * said[FULL]
  if UNGUIDED in said:  # three branches
    base, moved = base - on_text * said[UNGUIDED], moved + on_text * said[TEXT_ONLY]
  return own * base + alpha * moved


def blended_pixels(before: Float[np.ndarray, "n H W 3"], after: Float[np.ndarray, "n H W 3"]
                   ) -> Float[np.ndarray, "n H W 3"]:
  """Fades from the last n pictures of one chunk to the first n of the next, weights 0 to 1, as released."""
  ramp = np.linspace(0, 1, len(after), dtype=np.float32).reshape(-1, 1, 1, 1)
  return before * (1 - ramp) + after * ramp
