"""Sampling of a clip that is longer than a window, from what the encoders say to frames."""

from collections.abc import Callable

from jaxtyping import Float32, UInt8
import numpy as np

from emv3_jax import geometry
from emv3_jax.conditioning import colour_match
from emv3_jax.diffusion.noise import initial_noise
from emv3_jax.sampling.chunks import Chunks
from emv3_jax.sampling.inputs import Inputs
from emv3_jax.sampling.long_plan import LongPlan
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.profile import Profile
from emv3_jax.sampling.window_conditions import Encoded, conditions_of
from emv3_jax.sampling.window_denoiser import make_window_denoiser
from emv3_jax.tasks import TaskSpec


def make(model: Model, inputs: Inputs, encoded: Encoded, plan: LongPlan, task: TaskSpec, profile: Profile,
         progress: Callable) -> tuple[Float32[np.ndarray, "f H8 W8 c"], UInt8[np.ndarray, "F H W 3"]]:
  """Makes the latents and frames of a long clip, surplus frames included.

  Args:
    model: the networks.
    inputs: of the clip.
    encoded: its prompts, voice and picture.
    plan: its windows.
    task: of the request.
    profile: measures the parts; with `chunked`, whose VAE and transformer take turns, all of it is `transformer`.
    progress: wraps the step indices.
  """
  if plan.mode == "chunked":
    with profile.measure("transformer"):
      chunks = Chunks(model, inputs, encoded, plan, progress)
      frames = np.concatenate(list(chunks.frames()))
    return chunks.latents, _matched(model, frames)
  with profile.measure("vae_encode"):
    conditions = conditions_of(model, inputs, encoded, plan, task)
  with profile.measure("transformer"), model.parameters("transformer") as params:
    denoiser = make_window_denoiser(model.denoiser(), plan.mode)
    latents = denoiser.run(params, whole_noise(model, inputs, plan), plan, conditions, progress)
  with profile.measure("vae_decode"), model.parameters("vae") as params:
    groups = model.vae_decode_groups(params, (latents[None, index:index + 1] for index in range(plan.total)))
    frames = np.concatenate([group[0] for group in groups])
  return latents, _matched(model, frames)


def whole_noise(model: Model, inputs: Inputs, plan: LongPlan) -> Float32[np.ndarray, "f H8 W8 c"]:
  """Returns the initial noise of a clip on the host, drawn piece by piece."""
  length, size8 = plan.windows[0].length, geometry.latent_size(inputs.size)
  return np.concatenate([
      np.asarray(initial_noise(inputs.seed, min(length, plan.total - start), *size8, model.config.model.vae.z_dim, start))
      for start in range(0, plan.total, length)])


def _matched(model: Model, frames: np.ndarray) -> np.ndarray:
  return colour_match.matched(frames) if model.config.settings.long.match_colour else frames
