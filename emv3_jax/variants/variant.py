"""The description of an audio variant: all differences between the released models outside the network."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Literal

from jaxtyping import Float, Float32
import numpy as np

from emv3_jax.models.transformer_block import TransformerConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
  """An audio variant. Its audio projection is in `models.audio_projection.AUDIO_PATHS`.

  A feature is a row of the audio encoder's output; each video frame has `features_per_frame` of them.

  Attributes:
    name: the name in `TransformerConfig.variant`, model folders and reports.
    normalise: a whole recording, float32 [n] at 16 kHz -> the same with the level for the audio encoder.
    num_samples: number of video frames F -> number of samples of the audio encoder's input.
    encoder_options: F -> options of the audio encoder's call, see `models.wav2vec2`.
    features_per_frame: number of features for each video frame.
    guidance: mode of guidance in sampling, see `diffusion.guidance.Guidance.mode`.
    face_mask: whether the face mask limits where audio acts.
    settings: released sampling settings, one for each field of `SamplingConfig` that may be None.
    presets: further settings by the name of a preset, see `sampling.presets.preset_of`.
    follows_extractor: whether samples are normalised only if the audio encoder's feature extractor does.
    context: number of features that records hold on each side of their window.
    windows: features [n, ...] -> network input [n, ...], whose row i depends on at most `context` rows
      on each side; with None the input is the features themselves.
    released_tail: video frames after a window of a long clip whose features the released code adds to it.
    condition_fields: fields of `TransformerConfig` that the features depend on, besides those shared by
      all variants (`data.index.CONDITION_FIELDS`).
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
  released_tail: int = 0
  condition_fields: tuple[str, ...] = ()

  @property
  def guided_by_text(self) -> bool:
    """Whether text guidance and negative prompts apply."""
    return self.guidance == "text_audio"

  def waveform(self, samples: Float[np.ndarray, "n"], frames: int, normalise: bool = True
               ) -> Float32[np.ndarray, "samples"]:
    """Makes the audio encoder's input of length `num_samples(frames)`: the whole recording is normalised,
    then cut or padded with zeros.

    Args:
      samples: at 16 kHz.
      frames: number of video frames F.
      normalise: `do_normalize` of the checkpoint's feature extractor. If it is False and
        `follows_extractor`, the samples are not normalised.
    """
    length = self.num_samples(frames)
    as_they_are = lambda samples: samples.astype(np.float32)
    level = self.normalise if normalise or not self.follows_extractor else as_they_are
    normal = level(samples)[:length]
    return np.pad(normal, (0, length - len(normal)))

  def network_input(self, features: Float[np.ndarray, "n *feature"]) -> Float[np.ndarray, "n *taken"]:
    """Makes the network's input from the features of a whole clip."""
    return features if self.windows is None else self.windows(features)

  def crop_features(self, features: np.ndarray, start: int, frames: int) -> np.ndarray:
    """Takes the features of a window, as a record stores them: with `context` features on each side; the
    first and the last feature of the clip are repeated beyond its ends.

    Args:
      features: [n, ...] of a whole clip.
      start, frames: first frame and length of the window, in video frames.

    Returns:
      [stored_length(frames), ...].
    """
    first = self.features_per_frame * start
    last = first + self.features_per_frame * frames
    around = np.arange(first - self.context, last + self.context)
    return features[around.clip(0, len(features) - 1)]

  def stored_length(self, frames: int) -> int:
    """Returns the number of features in a record of a window of `frames` video frames."""
    return self.features_per_frame * frames + 2 * self.context

  def window_input(self, stored: np.ndarray) -> np.ndarray:
    """Makes the network's input of a window from the features that `crop_features` returned."""
    window = self.network_input(stored)
    return window[self.context:len(window) - self.context]

  def input_shape(self, config: TransformerConfig, frames: int) -> tuple[int, ...]:
    """Returns the shape of the network's audio input for `frames` video frames, without a batch axis."""
    return (self.features_per_frame * frames, *config.audio_path.feature_shape(config))

  def condition_values(self, config: TransformerConfig, shared: tuple[str, ...]) -> dict[str, Any]:
    """Returns the fields of a network's config that records depend on: those in `shared` and the variant's own."""
    return {name: getattr(config, name) for name in shared + self.condition_fields}
