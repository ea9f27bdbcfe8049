"""Conditions of the windows of a long clip.

A window is conditioned as a clip of its own is in training: its first latent frame stands for one video frame, the
masked video is encoded from there, and its features of the voice are cut as records cut them.
"""

import dataclasses

import jax
from jaxtyping import Float, Float32
import numpy as np

from emv3_jax import variants
from emv3_jax.diffusion.windows import Window
from emv3_jax.sampling import timed_prompts
from emv3_jax.sampling.denoise import Conditions
from emv3_jax.sampling.inputs import Inputs
from emv3_jax.sampling.long_plan import LongPlan, first_frame, num_frames
from emv3_jax.sampling.model import Model
from emv3_jax.tasks import TaskSpec, masks


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
  """What the encoders say of a whole clip.

  Attributes:
    text: float32 [1, text_tokens, text_dim] by the names of `Inputs.prompts`.
    features: of the voice, [n, ...], see `Variant`.
    image: float32 [1, image_tokens, image_dim] of the reference image.
  """

  text: dict[str, np.ndarray]
  features: np.ndarray
  image: np.ndarray


def window_text(inputs: Inputs, text: dict[str, np.ndarray], start: int, frames: int) -> dict[str, np.ndarray]:
  """Returns `prompt`, the one in force in the middle of the frames start, ..., start + frames - 1, and all negative
  prompts."""
  name = timed_prompts.name_at(inputs.prompt_times, timed_prompts.middle(start, frames))
  known = timed_prompts.names(len(inputs.prompt_times))
  return {"prompt": text[name], **{other: states for other, states in text.items() if other not in known}}


def window_audio(variant: variants.Variant, features: Float[np.ndarray, "n *feature"], window: Window, plan: LongPlan
                 ) -> Float[np.ndarray, "1 m *taken"]:
  """Cuts the features of a window, as records are cut; with `released` 8 for each latent frame, as released."""
  is_last = window.stop == plan.total
  tail = variant.released_tail if plan.mode == "released" and not is_last else 0
  return variant.window_input(variant.crop_features(features, first_frame(window), num_frames(window) + tail))[None]


def window_face(inputs: Inputs, window: Window) -> Float32[np.ndarray, "1 *mask"] | None:
  """Returns the face mask of a window, [1, h*w] or [1, h*w, L]."""
  mask = inputs.face_mask
  if mask is None:
    return None
  return (mask[:, window.start:window.stop] if mask.ndim == 2 else mask)[None]


def conditions_of(model: Model, inputs: Inputs, encoded: Encoded, plan: LongPlan, task: TaskSpec) -> list[Conditions]:
  """Collects the conditions of all windows, b = 1. The masked video is encoded window by window."""
  long, variant = model.config.settings.long, variants.of(model.config.model.transformer.variant)
  conditions = _encoded_videos(model, inputs, plan, long.anchor or plan.mode == "released", task)
  found = []
  for window, condition in zip(plan.windows, conditions, strict=True):
    kept = long.keep_picture or window.start == 0 or plan.mode == "released"
    found.append(Conditions(
        text=window_text(inputs, encoded.text, first_frame(window), num_frames(window)),
        image=encoded.image if kept else np.zeros_like(encoded.image),
        audio=window_audio(variant, encoded.features, window, plan),
        condition=condition, face_mask=window_face(inputs, window)))
  return found


def given_video(inputs: Inputs, window: Window, anchor: bool = False) -> tuple[np.ndarray, np.ndarray]:
  """Returns the video [n, H, W, 3] in [-1, 1] and the condition mask, bool [n] or [n, H, W], of a window.

  Args:
    inputs: of the clip.
    window: n = 4 L - 3 frames of it.
    anchor: whether the clip's first frame stands for the window's first.
  """
  start, frames = first_frame(window), num_frames(window)
  video, mask = inputs.video.video(start, start + frames), np.array(inputs.condition_mask[start:start + frames])
  if anchor:
    video[0], mask[0] = inputs.video.video(0, 1)[0], inputs.condition_mask[0]
  return video, mask


def encode_video(model: Model, params, video: np.ndarray, mask: np.ndarray) -> Float32[np.ndarray, "1 L H8 W8 20"]:
  """Encodes the condition of a window; zeros where nothing is given."""
  latent_mask = masks.mask_latents(mask, video.shape[1:3])
  latents = model.vae_encode(params, masks.masked_video(video, mask)[None]) if mask.any() else None
  return np.asarray(masks.condition(jax.numpy.asarray(latent_mask)[None], latents))


def _encoded_videos(model: Model, inputs: Inputs, plan: LongPlan, anchor: bool, task: TaskSpec) -> list[np.ndarray]:
  """Encodes the conditions of all windows; windows of which the same is given share one array."""
  anchor = anchor and bool(task.condition_inputs) and task.condition_inputs[0].request_field == "image"
  found, known = [], {}
  with model.parameters("vae") as params:
    for window in plan.windows:
      start, frames = first_frame(window), num_frames(window)
      given = inputs.condition_mask[start:start + frames]
      first = anchor or start == 0
      # Nothing is given but the first frame of the clip, or nothing at all.
      key = (frames, first) if not given[1 if first else 0:].any() else window
      if key not in known:
        known[key] = encode_video(model, params, *given_video(inputs, window, anchor and start > 0))
      found.append(known[key])
  return found
