"""Calibration of a model's step caches on one clip."""

from collections.abc import Callable
import pathlib

from absl import logging
import numpy as np

from emv3_jax import tasks
from emv3_jax.errors import InputError
from emv3_jax.runtime import processes
from emv3_jax.sampling import calibration, clip, long_plan, one_window
from emv3_jax.sampling.calibrating import make_calibrator
from emv3_jax.sampling.calibration import Run
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.profile import Profile
from emv3_jax.sampling.settings import Request
from emv3_jax.sharding.mesh import degree


def calibrate(model: Model, request: Request, path: str | pathlib.Path = "", *, progress: Callable | None = None
              ) -> pathlib.Path:
  """Samples the clip of `request` without skipping steps, and writes what step caches need to know.

  Args:
    model: from `load`; its own step cache is not used.
    request: any clip of one window, of pictures and voices as later runs have them.
    path: of the file; empty writes it beside the model, where runs with the same settings look for it.
    progress: wraps the iterator of solver steps.

  Returns:
    The path of the file.

  Raises:
    InputError: the request cannot be used, its clip is longer than a window, or the file cannot be written.
  """
  settings, network = model.config.settings, model.config.model.transformer
  target = pathlib.Path(path) if path else calibration.path_of(settings, model.folder)
  if target is None:
    raise InputError("An untrained model has no folder to keep a calibration in; name a file: --calibrate=FILE.")
  inputs, _ = processes.run_on_all(lambda: clip.read(model, request))
  if long_plan.plan(settings, inputs.sample_frames, degree(model.mesh, "batch")) is not None:
    raise InputError(f"The clip has {inputs.frames} frames, more than a window of {settings.max_frames}; calibrate on a "
                     "shorter one, with --seconds.")
  profile = Profile()
  encoded = clip.encode(model, inputs, profile)
  conditions = clip.window_conditions(model, inputs, encoded, profile)
  with profile.measure("transformer"), model.parameters("transformer") as params:
    noise, conditions = one_window.placed(model, inputs, conditions)
    latents, found = make_calibrator(model.denoiser()).run(params, noise, conditions, progress or iter)
  if not np.isfinite(np.asarray(latents)).all():
    raise InputError("The model's latents are not finite; nothing can be measured.")
  made = calibration.measured(
      Run.of(settings, network.variant, model.digest("transformer")), found.ratios, found.changes, found.outputs,
      {"task": tasks.of(request.task).name, "frames": inputs.frames, "height": inputs.size[0], "width": inputs.size[1],
       "text_scale": settings.text_scale, "audio_scale": settings.audio_scale})
  processes.run_on_all(lambda: calibration.write(target, made))
  logging.info("Wrote %s, the calibration of step caches for %d steps.", target, settings.steps)
  return target
