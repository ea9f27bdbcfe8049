"""Long clips chunk by chunk: each chunk begins with the last pictures of the one before, which it fades from.

The only mode whose pictures are final before the whole clip is denoised, and the one in which errors add up.
"""

from collections.abc import Callable, Generator, Iterator

from jaxtyping import Float32, Shaped
import numpy as np

from emv3_jax import geometry, variants
from emv3_jax.conditioning import image as image_lib
from emv3_jax.diffusion import windows
from emv3_jax.diffusion.noise import initial_noise
from emv3_jax.diffusion.windows import Window
from emv3_jax.sampling import cached_steps, window_conditions
from emv3_jax.sampling.denoise import Conditions
from emv3_jax.sampling.inputs import Inputs
from emv3_jax.sampling.long_plan import LongPlan, first_frame, num_frames
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.window_conditions import Encoded

Pictures = Shaped[np.ndarray, "n H W 3"]  # uint8, or floating point in [0, 1]
MakeChunk = Callable[[int, Pictures | None], Pictures]


def faded(plan: LongPlan, make: MakeChunk) -> Iterator[Pictures]:
  """Yields the pictures of a clip as soon as they are final, in order.

  Args:
    plan: the chunks.
    make: (index of a chunk, the last pictures of the chunk before as they were made, None for the first) -> the
      pictures of the chunk, uint8 or floating point in [0, 1], of which the first are those of the same frames.
  """
  made, end = None, None
  for index, window in enumerate(plan.windows):
    shared = 0 if not index else geometry.frames_of(plan.windows[index - 1].stop - window.start)
    chunk = make(index, None if made is None else made[-shared:])
    made = chunk
    if end is not None:
      blended = windows.blended_pixels(end.astype(np.float32), chunk[:shared].astype(np.float32))
      if chunk.dtype == np.uint8:
        blended = np.round(blended).astype(np.uint8)
      chunk = np.concatenate([blended.astype(chunk.dtype), chunk[shared:]])
    final = len(chunk)
    if index + 1 < len(plan.windows):
      final -= geometry.frames_of(window.stop - plan.windows[index + 1].start)
    end = chunk[final:]
    yield chunk[:final]


def begun_with(before: Shaped[np.ndarray, "shared H W 3"] | None, video: Float32[np.ndarray, "n H W 3"], mask: np.ndarray
               ) -> tuple[np.ndarray, np.ndarray]:
  """Gives the end of the chunk before as the first pictures of a chunk.

  Args:
    before: None for the first chunk; floating point is cut to uint8 first, as released.
    video: in [-1, 1], what the request gives for the chunk.
    mask: bool [n] or [n, H, W], where it does.

  Returns:
    Video and mask with these pictures.
  """
  if before is None:
    return video, mask
  video, mask = np.array(video), np.array(mask)
  video[:len(before)] = image_lib.to_pixels(as_bytes(before))
  mask[:len(before)] = True
  return video, mask


def as_bytes(pictures: Pictures) -> np.ndarray:
  """Returns pictures as uint8; floating point in [0, 1] is cut, as released."""
  return pictures if pictures.dtype == np.uint8 else (pictures * 255).astype(np.uint8)


class Chunks:
  """Makes the chunks of one clip; networks stay loaded until `frames` ends.

  Args:
    model: the networks.
    inputs: of the clip.
    encoded: its prompts, voice and picture.
    plan: its chunks.
    progress: wraps the step indices of every chunk.

  Attributes:
    latents: float32 [f, H8, W8, c], of each chunk those that the chunk before has not; cannot be decoded as one.
    evaluations: how many times the transformer's blocks run for a chunk; known when there are frames.
  """

  def __init__(self, model: Model, inputs: Inputs, encoded: Encoded, plan: LongPlan, progress: Callable = iter):
    self._model, self._inputs, self._encoded, self._plan, self._progress = model, inputs, encoded, plan, progress
    self._variant = variants.of(model.config.model.transformer.variant)
    self.latents = np.zeros((plan.total, *geometry.latent_size(inputs.size), model.config.model.vae.z_dim), np.float32)
    self.evaluations, self._runs = 0, None

  def frames(self) -> Generator[np.ndarray]:
    """Yields the clip's pictures, uint8 [n, H, W, 3], as soon as they are final."""
    model, denoiser = self._model, self._model.denoiser()
    with model.parameters("vae") as vae, model.parameters("transformer") as transformer:
      self._runs = model.runs(transformer, denoiser.schedule)
      self.evaluations = cached_steps.evaluations(denoiser.schedule, self._runs)
      yield from faded(self._plan, lambda index, before: self._make(vae, transformer, index, before))

  def _make(self, vae, transformer, index: int, before: np.ndarray | None) -> np.ndarray:
    model, window = self._model, self._plan.windows[index]
    video, mask = begun_with(before, *window_conditions.given_video(self._inputs, window))
    condition = window_conditions.encode_video(model, vae, video, mask)
    conditions = self._conditions(window, before, condition)
    height8, width8, channels = self.latents.shape[1:]
    noise = initial_noise(self._inputs.seed, window.length, height8, width8, channels, window.start)
    made = cached_steps.denoise(model.denoiser(), transformer, model.whole(noise[None]), conditions, self._runs,
                                self._progress)
    latents = np.asarray(made, np.float32)
    own = 0 if not index else self._plan.windows[index - 1].stop - window.start
    self.latents[window.start + own:window.stop] = latents[0, own:]
    return model.vae_decode(vae, latents)[0]

  def _conditions(self, window: Window, before: np.ndarray | None, condition: np.ndarray) -> Conditions:
    model, image = self._model, self._encoded.image
    if before is not None and not model.config.settings.long.keep_picture:
      with model.parameters("image_encoder") as params:
        image = model.encode("image_encoder", params, image_lib.clip_vision_pixels(before[0])[None])
    face = window_conditions.window_face(self._inputs, window)
    return Conditions(
        text=window_conditions.window_text(self._inputs, self._encoded.text, first_frame(window), num_frames(window)),
        image=image, audio=window_conditions.window_audio(self._variant, self._encoded.features, window, self._plan),
        condition=model.whole(condition), face_mask=None if face is None else model.whole(face))
