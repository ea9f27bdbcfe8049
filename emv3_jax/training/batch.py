"""A batch of training examples."""

from collections.abc import Iterable
import dataclasses

import jax
from jaxtyping import Float, Int32, UInt32

from emv3_jax.arrays import AnyArray


@dataclasses.dataclass(frozen=True)
class Batch:
  """What a training step learns from; a pytree whose leaves are the arrays.

  Trees of its shape may hold anything: shapes, shardings, tracers. Only `Batch(...)` itself is
  checked where types are (tests).

  Attributes:
    latents: clean and normalised.
    mask: 1 where a pixel frame of a latent cell is given, by the example's task.
    masked_latents: latents of the video of which the rest is masked.
    text: umT5 states, zeros after each caption's end.
    image: CLIP states, zeros without a picture.
    audio: features, [b, 2 F, audio_dim] (preview) or [b, F, 5, audio_layers, audio_dim] (flash).
    face_mask: over tokens, where the audio acts: the same in all frames, or by latent frame.
    mouth_mask: for the loss.
    task: numbers of tasks, see `tasks.number`, for metrics.
    example: numbers of the records in their dataset.
    face_region: over tokens, the face, for the loss; None: `face_mask`.
    frame_mask: 0 where the loss does not look; None: 1 everywhere.
  """

  latents: Float[AnyArray, "b f H8 W8 c"]
  mask: Float[AnyArray, "b f H8 W8 4"]
  masked_latents: Float[AnyArray, "b f H8 W8 c"]
  text: Float[AnyArray, "b text_tokens text_dim"]
  image: Float[AnyArray, "b image_tokens image_dim"]
  audio: Float[AnyArray, "b audio_tokens *audio"]
  face_mask: Float[AnyArray, "b hw *frames"]
  mouth_mask: Float[AnyArray, "b f H8 W8"]
  task: Int32[AnyArray, "b"]
  example: UInt32[AnyArray, "b"]
  face_region: Float[AnyArray, "b hw *frames"] | None = None
  frame_mask: Float[AnyArray, "b f"] | None = None


_FIELDS = tuple(field.name for field in dataclasses.fields(Batch))


def _flatten(batch: Batch) -> tuple[list[tuple], None]:
  return [(jax.tree_util.GetAttrKey(name), getattr(batch, name)) for name in _FIELDS], None


def _unflatten(_, leaves: Iterable) -> Batch:
  """Without `__init__`, which would check types: leaves need not be arrays."""
  batch = object.__new__(Batch)
  for name, leaf in zip(_FIELDS, leaves, strict=True):
    object.__setattr__(batch, name, leaf)
  return batch


jax.tree_util.register_pytree_with_keys(Batch, _flatten, _unflatten)
