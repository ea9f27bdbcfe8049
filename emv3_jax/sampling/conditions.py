"""What the network is given in sampling: the conditions of a window, and the values of each step."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from emv3_jax.arrays import AnyArray


@dataclasses.dataclass(frozen=True)
class Conditions:
  """Conditions of the network for one window; b clips of one shape.

  Attributes:
    text: dict with `prompt` and the negative prompts that steps are guided by, named by `negative_phases.name_of`:
      float32 [b, text_tokens, text_dim], umT5 states of the tokens of the text, padded with zeros.
    image: float32 [b, image_tokens, image_dim] CLIP states; zeros without a picture.
    audio: float32 [b, tokens, 768] (preview) or [b, F, 5, layers, 768] (flash).
    condition: float32 [b, f, H8, W8, 20], mask channels and latents of the masked video.
    face_mask: float32 [b, h*w], or [b, h*w, f] by latent frame, 1 where the audio acts; None stands for
      everywhere.
    frames: int32, number of latent frames of clips that are padded after them; None stands for all.
  """

  text: Mapping[str, AnyArray]
  image: AnyArray
  audio: AnyArray
  condition: AnyArray
  face_mask: AnyArray | None = None
  frames: AnyArray | None = None


@dataclasses.dataclass(frozen=True)
class StepTables:
  """Values for each step, computed on the host: all float32 with a leading axis [steps]."""

  sinusoid: np.ndarray  # [steps, freq_dim]
  text_scale: np.ndarray  # [steps]
  audio_scale: np.ndarray  # [steps]
  modality_weights: np.ndarray  # [steps, 3]

  def tree(self) -> dict[str, np.ndarray]:
    return dataclasses.asdict(self)
