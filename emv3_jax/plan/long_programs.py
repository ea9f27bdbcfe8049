"""Programs of sampling a clip that may be longer than a window; those of a shorter one are `programs`."""

from collections.abc import Callable
import dataclasses

import jax

from emv3_jax import sharding
from emv3_jax.components import programs as component_programs
from emv3_jax.plan import flops, meshes, programs
from emv3_jax.plan.programs import Deployment, Program, Window
from emv3_jax.sampling.denoise import Denoiser, make_denoiser
from emv3_jax.sampling.long_settings import LongConfig
from emv3_jax.sampling.settings import Config
from emv3_jax.sampling.window_denoiser import WindowDenoiser


def window_of(config: Config, window: Window, clip_frames: int) -> Window:
  """Returns the window that a clip of `clip_frames` (4k+1; 0 stands for a window) is made by."""
  if not clip_frames:
    return window
  frames = config.settings.long.window_frames(config.settings.max_frames)
  return dataclasses.replace(window, frames=frames if clip_frames > frames else window.frames, clip_frames=clip_frames)


def sample_step(config: Config, window: Window, deployment: Deployment) -> Program:
  """Traces the step of a window, or of a group of windows without the solver, which runs on the host's latents."""
  long = config.settings.long
  if not window.is_of_longer or long.mode == "chunked":
    return programs.sample_step(config, window, deployment)
  net, parts = config.model.transformer, deployment.config.data * deployment.config.fsdp
  number = long.batch(parts)
  settings = dataclasses.replace(config.settings, long=LongConfig())
  denoiser = make_denoiser(net, settings, deployment.mesh, precision=config.precision.transformer,
                           attention=deployment.config.attention, platform=deployment.platform)
  traced = _trace(denoiser, long.mode, net, window, deployment.whole, number, denoiser.transformer.abstract)
  plain = programs.plain_denoiser(net, settings)
  counted = _trace(plain, long.mode, net, window, programs.array, number, plain.transformer.network.abstract)
  rows = number * programs.num_rows(config, long.mode)
  return Program(traced, denoiser.transformer.abstract, flops.count(counted),
                 meshes.padded(rows, deployment.config) / rows)


def _trace(denoiser: Denoiser, mode: str, net, window: Window, array: Callable, number: int, params
           ) -> jax.stages.Traced:
  latents = array((number, *window.latents, net.out_channels))
  return WindowDenoiser(denoiser, mode).trace_group(
      params, latents, programs.conditions(net, window, array, number))


def vae_decode(config: Config, window: Window, deployment: Deployment) -> Program:
  """Traces the decoder of one latent frame of a clip after the first; without a clip, and of a chunk, that of the window."""
  if not window.clip_frames or window.is_of_longer and config.settings.long.mode == "chunked":
    return programs.vae_decode(config, window, deployment)
  network = component_programs.network(config.model, config.precision, "vae")
  size8 = window.latents[1:]
  params = sharding.abstract_on(network.abstract, deployment.mesh, "vae")
  run = component_programs.vae_decode_group(network, deployment.mesh, size8)
  latents = deployment.whole((1, 1, *size8, config.model.vae.z_dim))
  split = sharding.picture_sharding(deployment.mesh, 1, size8)
  _, cached = jax.eval_shape(run, params, latents, None)
  cached = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split), cached)
  traced = run.trace(params, latents, cached)
  return Program(traced, params, flops.count(traced), programs.copies(deployment.mesh.size, size8))


PROGRAMS: dict[str, Callable[[Config, Window, Deployment], Program]] = {
    **programs.PROGRAMS, "sample_step": sample_step, "vae_decode": vae_decode}
