"""What an audio variant is: all that differs between the released networks, outside the network."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Literal

import numpy as np

from emv3_jax.models.transformer_block import TransformerConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
  """An audio variant. The network's own part is in `models.audio_projection.AUDIO_PATHS`.

  A feature is a row of the audio encoder's output, `features_per_frame` of which belong to a video frame.

  Attributes:
    name: in `TransformerConfig.variant`, model folders and reports.
    normalise: (float32 [n] at 16 kHz, a whole recording) -> the same at the level that the audio
      encoder wants.
    num_samples: number of video frames F -> samples that the audio encoder is given for them.
    encoder_options: F -> options of the audio encoder's call, see `models.wav2vec2`.
    features_per_frame: see above.
    guidance: how sampling is guided, see `diffusion.guidance.Guidance.mode`.
    face_mask: whether the face mask limits where audio acts.
    settings: released settings of sampling, one for each field of `SamplingConfig` that may be None.
    presets: further settings by the name of a preset, see `sampling.settings.preset_of`.
    follows_extractor: whether samples are only normalised where the audio encoder's feature extractor does.
    context: features that records hold to either side of their window.
    windows: features [n, ...] -> what the network takes [n, ...], of which row i may depend on
      `context` rows to either side; None: the features themselves.
    condition_fields: fields of `TransformerConfig` that features depend on, beside those that all
      variants share (`data.index.CONDITION_FIELDS`).
  """

  name: str
  normalise: Callable[[np.ndarray], np.ndarray]
  num_samples: Callable[[int], int]
  encoder_options: Callable[[int], dict[str, Any]]
  features_per_frame: int
  guidance: Literal["text_audio", "audio"]
  face_mask: bool
  settings: Mapping[str, Any]
  presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  follows_extractor: bool = False
  context: int = 0
  windows: Callable[[np.ndarray], np.ndarray] | None = None
  condition_fields: tuple[str, ...] = ()

  @property
  def guided_by_text(self) -> bool:
    """Whether text guidance and negative prompts apply."""
    return self.guidance == "text_audio"

  def waveform(self, samples: np.ndarray, frames: int, normalise: bool = True) -> np.ndarray:
    """Input of the audio encoder, float32 [num_samples(frames)]: the whole recording normalised, then
    cut or padded with zeros.

    Args:
      samples: float32 [n] at 16 kHz.
      frames: video frames F.
      normalise: what the checkpoint's feature extractor says (`do_normalize`), where `follows_extractor`;
        without, the samples are taken as they are.
    """
    length = self.num_samples(frames)
    level = self.normalise if normalise or not self.follows_extractor else np.float32
    normal = level(samples)[:length]
    return np.pad(normal, (0, length - len(normal)))

  def heard(self, features: np.ndarray) -> np.ndarray:
    """What the network takes of the features [n, ...] of a whole clip: [n, ...]."""
    return features if self.windows is None else self.windows(features)

  def cut(self, features: np.ndarray, start: int, frames: int) -> np.ndarray:
    """Features of a window as a record holds them: with `context` to either side, the first and the
    last feature repeated beyond the ends.

    Args:
      features: [n, ...] of a whole clip.
      start, frames: of the window, in video frames.

    Returns:
      [stored_length(frames), ...].
    """
    first = self.features_per_frame * start
    last = first + self.features_per_frame * frames
    around = np.arange(first - self.context, last + self.context)
    return features[around.clip(0, len(features) - 1)]

  def stored_length(self, frames: int) -> int:
    """Features that a record of a window of `frames` video frames holds."""
    return self.features_per_frame * frames + 2 * self.context

  def window_input(self, stored: np.ndarray) -> np.ndarray:
    """What the network takes of a window, from what `cut` made of it."""
    heard = self.heard(stored)
    return heard[self.context:len(heard) - self.context]

  def input_shape(self, config: TransformerConfig, frames: int) -> tuple[int, ...]:
    """Shape of what the network takes of a clip of `frames` video frames, without a batch axis."""
    return (self.features_per_frame * frames, *config.audio_path.feature_shape(config))

  def condition_values(self, config: TransformerConfig, shared: tuple[str, ...]) -> dict[str, Any]:
    """What of a network's config its records depend on: fields `shared` by all variants and its own."""
    return {name: getattr(config, name) for name in shared + self.condition_fields}
