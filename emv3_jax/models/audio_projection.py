"""From speech features to the audio tokens that each latent frame attends to.

Preview: the wav2vec2 tokens (2 per video frame) are projected one by one, then cut into one window
of 17 per latent frame ("Audio Segments", r = e = 4: 2(r + e) + 1). Flash: the windows of 5 frames x
12 layers of features around each latent frame are projected together to 32 tokens.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.models.norms import LayerNorm
from emv3_jax.models.precision import Precision

PREVIEW_WINDOW = 17  # tokens per latent frame
PAD = -1
_EXPAND = 4  # e: tokens by which a window reaches beyond its segment on either side
_FIRST_SLOTS = 5  # flash: all slots of frame 0
_LATER_FRAMES = np.array([0, 0, 0, 1, 2, 3, 3, 3])  # flash: frame within the group of four
_LATER_SLOTS = np.array([0, 1, 2, 2, 2, 2, 3, 4])  # flash: slot within that frame's window


def preview_windows(num_tokens: int) -> Int32[np.ndarray, "f 17"]:
  """Indices of the audio tokens that each latent frame attends to, as in the released code.

  A latent frame's segment is centred on its four video frames and reaches 4 tokens either way; the
  window adds 4 more on both sides. The first frame's segment ends where the second's begins. What
  lies outside the clip is cut off and made up by padding, always on the right. For an odd number of
  tokens (slightly more than 2 a frame) centres may drift by a token on long clips.

  Args:
    num_tokens: a, number of wav2vec2 tokens, about 50 per second.

  Returns:
    Token indices, PAD = -1, with f = (a // 2 - 1) // 4 + 1 latent frames.

  Raises:
    ValueError: fewer than 10 tokens, that is less than two latent frames.
  """
  if num_tokens < 10:
    raise ValueError(f"{num_tokens} audio tokens are less than two latent frames; "
                     "the preview projection needs at least 10 (5 video frames).")
  num_frames = num_tokens // 2
  per_frame = num_tokens / num_frames
  reach = int(per_frame * 4 / 2)
  # float64 in this order of operations, so that odd lengths round as in the released code.
  centres = [int((per_frame * (4 * k - 3) + per_frame * (4 * k + 1)) / 2) - 1
             for k in range(1, (num_frames - 1) // 4 + 1)]
  segments = [(centre - reach, centre + reach) for centre in centres]
  first_end = segments[0][0]
  segments.insert(0, (first_end - 2 * reach, first_end))
  windows = np.full((len(segments), PREVIEW_WINDOW), PAD, np.int32)
  for window, (start, end) in zip(windows, segments, strict=True):
    tokens = np.arange(max(start - _EXPAND, 0), min(end + _EXPAND, num_tokens - 1) + 1)
    window[:len(tokens)] = tokens
  return windows


class PreviewAudioProjection(nnx.Module):
  """Linear without bias and layer norm per token (`audio2token`), then windows."""

  def __init__(self, audio_dim: int, dim: int, *, precision: Precision, rngs: nnx.Rngs):
    self.proj = nnx.Linear(
        audio_dim, dim, use_bias=False, dtype=precision.compute_dtype,
        param_dtype=precision.param_dtype, precision=precision.matmul,
        kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)
    self.norm = LayerNorm(dim, eps=1e-5, precision=precision)

  def __call__(self, audio: Float[jax.Array, "b a audio_dim"], frames: AnyArray | None = None
               ) -> Float[jax.Array, "b f 17 d"]:
    """Tokens of each latent frame, of wav2vec2's tokens.

    Padding is exact zeros put in after the projection; null audio is zeros before it, which
    become the norm's bias. Tokens after the first `frames` latent frames, if it is given, are padding.
    """
    tokens = self.norm(self.proj(audio))
    if frames is not None:
      last = 2 * (4 * frames - 3)  # two tokens for each video frame
      tokens = jnp.where(jnp.arange(audio.shape[1])[:, None] < last, tokens, 0)
    windows = preview_windows(audio.shape[1])
    padded = jnp.pad(tokens, ((0, 0), (0, 1), (0, 0)))
    return padded[:, np.where(windows == PAD, audio.shape[1], windows)]


def flash_windows(audio: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Regroups per-frame feature windows by latent frame.

  Args:
    audio: [b, F, 5, ...], at every video frame a window of the frames -2..+2; F = 4(f-1) + 1.

  Returns:
    first [b, 1, 5, ...]: frame 0's window; later [b, f-1, 8, ...]: for the four frames a..a+3 of
    each further latent frame the features of frames a-2..a+5.

  Raises:
    ValueError: F is not 4k + 1, or the windows are not 5 frames long.
  """
  num_frames, slots = audio.shape[1:3]
  if num_frames % 4 != 1 or slots != _FIRST_SLOTS:
    raise ValueError(f"flash audio is [b, {num_frames}, {slots}, ...]; expected [b, 4k+1, 5, ...].")
  frames = np.arange(1, num_frames, 4)[:, None] + _LATER_FRAMES
  return audio[:, :1], audio[:, frames, np.broadcast_to(_LATER_SLOTS, frames.shape)]


class FlashAudioProjection(nnx.Module):
  """Three-layer MLP from feature windows to tokens (`AudioProjModel`).

  `proj1` reads the first latent frame's 5 slots, `proj1_vf` the others' 8.
  """

  def __init__(self, audio_dim: int, layers: int, hidden: int, tokens: int, dim: int, *,
               precision: Precision, rngs: nnx.Rngs):
    def linear(inputs, outputs):
      return nnx.Linear(
          inputs, outputs, dtype=precision.compute_dtype, param_dtype=precision.param_dtype,
          precision=precision.matmul, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)

    self.proj1 = linear(_FIRST_SLOTS * layers * audio_dim, hidden)
    self.proj1_vf = linear(len(_LATER_SLOTS) * layers * audio_dim, hidden)
    self.proj2 = linear(hidden, hidden)
    self.proj3 = linear(hidden, tokens * dim)
    self.norm = LayerNorm(dim, eps=1e-5, precision=precision)
    self.tokens = tokens

  def __call__(self, audio: Float[jax.Array, "b F 5 layers audio_dim"], frames: AnyArray | None = None
               ) -> Float[jax.Array, "b f tokens d"]:
    """Tokens of each latent frame, of the windows of each video frame, which reach over no other latent frame's."""
    first, later = (jax.lax.collapse(t, 2) for t in flash_windows(audio))
    hidden = nnx.relu(jnp.concatenate([self.proj1(first), self.proj1_vf(later)], axis=1))
    hidden = nnx.relu(self.proj2(hidden))
    out = self.proj3(hidden)
    return self.norm(out.reshape(*out.shape[:2], self.tokens, -1))


@dataclasses.dataclass(frozen=True)
class AudioPath:
  """The network's part of an audio variant; `config` stands for a `TransformerConfig`.

  Attributes:
    projection: (config, precision, rngs) -> module from features [b, length, ...] to [b, f, m, d].
    feature_shape: config -> shape of a feature, what follows [b, length].
    biased: whether the audio expert's keys and values have a bias; see `cross_attention`.
  """

  projection: Callable[[Any, Precision, nnx.Rngs], nnx.Module]
  feature_shape: Callable[[Any], tuple[int, ...]]
  biased: bool


AUDIO_PATHS = {  # by variant
    "preview": AudioPath(
        projection=lambda config, precision, rngs: PreviewAudioProjection(
            config.audio_dim, config.dim, precision=precision, rngs=rngs),
        feature_shape=lambda config: (config.audio_dim,), biased=False),
    "flash": AudioPath(
        projection=lambda config, precision, rngs: FlashAudioProjection(
            config.audio_dim, config.audio_layers, config.audio_hidden, config.audio_tokens,
            config.dim, precision=precision, rngs=rngs),
        feature_shape=lambda config: (_FIRST_SLOTS, config.audio_layers, config.audio_dim),
        biased=True),
}
