"""What the average of the weights can do so far: a sampled clip, and its loss on held-out clips.

WORKDIR/previews/STEP.mp4   the clip of config.preview, made by the sampling code
WORKDIR/held_out.jsonl      mean squared error of the velocity by band of sigma: the same clips, tasks,
                            noise and sigmas at every step, no weights of regions; beside it as
                            linear/sigma_... that of the best linear guess (`flow.linear_error`)
"""

import dataclasses
import pathlib

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from emv3_jax import sharding
from emv3_jax.data.pipeline import Dataset
from emv3_jax.diffusion import flow
from emv3_jax.errors import InputError
from emv3_jax.models.network import Params
from emv3_jax.sampling import output
from emv3_jax.sampling import settings as sampling
from emv3_jax.sampling.clip import sample
from emv3_jax.sampling.inputs import read_inputs
from emv3_jax.sampling.model import Model
from emv3_jax.tasks.schedule import Mixture, Stage
from emv3_jax.training.draws import draw
from emv3_jax.training.exporting import OTHERS, TRANSFORMER, components_folder
from emv3_jax.training.forward import Batch
from emv3_jax.training.host_batches import finished, local_rows, on_mesh
from emv3_jax.training.metrics import BANDS, Writer
from emv3_jax.training.programs import Programs
from emv3_jax.training.settings import Config

FOLDER = "previews"
_ALL_TASKS = Stage("held_out", 1, Mixture(1.0, 1.0, 1.0, 1.0))


class Previews:
  """Makes the previews of a run; everything they need is checked at once.

  Args:
    config: the run's.
    programs: its network and mesh.
    workdir: its folder.

  Raises:
    InputError: a file, the dataset or the folder with the other networks cannot be used, or neither
      a clip nor held-out clips are configured.
  """

  def __init__(self, config: Config, programs: Programs, workdir: pathlib.Path):
    preview = config.preview
    if not (preview.audio or preview.held_out):
      raise InputError("train.preview_every is set and there is nothing to make: set preview.audio "
                       "(and preview.image) or preview.held_out.")
    self._folder = workdir / FOLDER
    self._clip = ClipPreview(config) if preview.audio else None
    self._held_out = HeldOut(config, programs) if preview.held_out else None

  def make(self, step: int, average: Params, writer: Writer | None) -> None:
    """Makes those of `average` after `step` steps; every process calls this, process 0 writes.

    Raises:
      InputError: the disk is full.
    """
    if self._held_out is not None:
      told = {"step": step, **self._held_out.measure(average)}
      if writer is not None:
        writer.write(told, "held_out")
        logging.info("Held-out loss after step %d: %.4f.", step, told["loss"])
    if self._clip is not None:
      clip = self._clip.sample(average)
      if writer is not None:
        video = self._folder / f"{step:08d}.mp4"
        output.write(clip, video)
        logging.info("Wrote %s.", video)


class ClipPreview:
  """The clip of config.preview, sampled with given weights."""

  def __init__(self, config: Config):
    preview, folder = config.preview, components_folder(config)
    if folder is None:
      raise InputError("A preview clip needs the other networks; set components to a model folder "
                       "that has them, or leave preview.audio empty.")
    settings = sampling.Config(
        name=config.name, tokenizer=preview.tokenizer, seed=config.seed, model=config.model,
        precision=config.precision, sampling=preview.sampling, mesh=config.mesh)
    named = {field.name: getattr(preview, field.name) for field in dataclasses.fields(preview)}
    self._request = sampling.Request(
        **{name: named[name] for name in ("audio", "prompt", "task", "face_box")},
        image=preview.image or None)
    self._model = Model(settings, folder, parts=OTHERS)
    if not self._model.digest("text_encoder"):  # nothing to know its embeddings by
      self._model.config = dataclasses.replace(settings, prompt_cache="")
    self._model.denoiser()  # refuses settings that do not exist
    read_inputs(self._request, settings, self._model.tokenizer_path)

  def sample(self, average: Params):
    with self._model.using(TRANSFORMER, average):
      return sample(self._model, self._request)


class HeldOut:
  """The loss on the first batches of a dataset, at the middle of each band of sigma."""

  def __init__(self, config: Config, programs: Programs):
    self._config, self._forward, self._target = config, programs.forward, programs.batch_sharding
    self._rows = config.train.batch // config.train.accumulate
    self._dataset = Dataset(config.preview.held_out, config.model.transformer)
    self._run = jax.jit(self._errors, out_shardings=jax.NamedSharding(programs.mesh, jax.P()))

  def _errors(self, params: Params, batch: Batch, sigma: jax.Array, rope) -> jax.Array:
    """Mean errors over the batch, of the model and of the best linear guess: [2]."""
    config, examples = self._config, batch["example"]
    density = dataclasses.replace(config.loss, jitter=0.0)
    draws = draw(dataclasses.replace(config, loss=density), jnp.int32(0), examples,
                 batch["latents"].shape[1:], sigma=jnp.full(examples.shape, sigma))
    batch = self._forward.pinned(batch)
    return jnp.stack([jnp.mean(self._forward.errors(params, batch, draws, rope)),
                      flow.linear_error(batch["latents"], sigma)])

  def measure(self, average: Params) -> dict[str, float]:
    mesh = self._target.mesh
    batches = self._dataset.batches(self._rows, seed=None,
                                    rows=local_rows(self._target, self._rows))
    found = []
    for _ in range(self._config.preview.batches):
      batch = finished(self._config.seed, 0, _ALL_TASKS, next(batches))
      batch = on_mesh(batch, self._target, self._rows)
      rope = sharding.replicate(self._forward.rope(batch["latents"].shape), mesh)
      middles = np.float32(np.add(BANDS[1:], BANDS[:-1]) / 2)
      found.append([self._run(average, batch, sharding.replicate(sigma, mesh), rope)
                    for sigma in middles])
    means = np.mean(np.array(jax.device_get(found), np.float64), axis=0)  # [bands, 2]
    told = {"loss": float(means[:, 0].mean())}
    for name, errors in zip(("loss", "linear"), means.T.tolist(), strict=True):
      told |= {f"{name}/sigma_{low}-{high}": error
               for low, high, error in zip(BANDS[:-1], BANDS[1:], errors, strict=True)}
    return told
