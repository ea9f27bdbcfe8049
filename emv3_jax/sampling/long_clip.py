"""Sampling of a clip that is longer than a window, from what the encoders say to frames."""

from collections.abc import Callable, Iterator

from jaxtyping import Float32
import numpy as np

from emv3_jax import geometry
from emv3_jax.diffusion.noise import initial_noise
from emv3_jax.sampling import cached_steps
from emv3_jax.sampling.chunks import Chunks
from emv3_jax.sampling.inputs import Inputs
from emv3_jax.sampling.long_plan import LongPlan
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.profile import Profile
from emv3_jax.sampling.streaming import Group, decode_groups
from emv3_jax.sampling.window_conditions import Encoded, conditions_of
from emv3_jax.sampling.window_denoiser import make_window_denoiser
from emv3_jax.tasks import TaskSpec


def generate(model: Model, inputs: Inputs, encoded: Encoded, plan: LongPlan, task: TaskSpec, profile: Profile,
             progress: Callable) -> Iterator[Group]:
  """Generates the frames of a long clip as soon as they are final, surplus frames included.

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
    yield from _chunks(model, inputs, encoded, plan, profile, progress)
    return
  with profile.measure("vae_encode"):
    conditions = conditions_of(model, inputs, encoded, plan, task)
  with profile.measure("transformer"), model.parameters("transformer") as params:
    denoiser = make_window_denoiser(model.denoiser(), plan.mode)
    runs = model.runs(params, denoiser.schedule)
    latents = denoiser.run(params, whole_noise(model, inputs, plan), plan, conditions, progress, runs)
    profile.evaluations += len(plan.windows) * cached_steps.evaluations(denoiser.schedule, runs)
  yield from decode_groups(model, latents, profile)


def _chunks(model: Model, inputs: Inputs, encoded: Encoded, plan: LongPlan, profile: Profile, progress: Callable
            ) -> Iterator[Group]:
  chunks = Chunks(model, inputs, encoded, plan, progress)
  final, begin = chunks.frames(), 0
  for window in plan.windows:
    with profile.measure("transformer"):
      frames = next(final)
    yield Group(frames, chunks.latents[begin:window.stop])
    begin = window.stop
    profile.evaluations += chunks.evaluations
  final.close()  # frees the networks


def whole_noise(model: Model, inputs: Inputs, plan: LongPlan) -> Float32[np.ndarray, "f H8 W8 c"]:
  """Returns the initial noise of a clip on the host, drawn piece by piece."""
  length, size8 = plan.windows[0].length, geometry.latent_size(inputs.size)
  return np.concatenate([
      np.asarray(initial_noise(inputs.seed, min(length, plan.total - start), *size8, model.config.model.vae.z_dim, start))
      for start in range(0, plan.total, length)])
