"""Previews of the average of the weights: a sampled clip, and its loss on held-out clips.

WORKDIR/previews/STEP.mp4   the clip of config.preview, made by the sampling code
WORKDIR/held_out.jsonl      mean squared error of the velocity by band of sigma and by task, on the cells
                            that an example is not given: the same clips, tasks, noise and sigmas
                            at every step, no weights of regions; beside it, as linear/sigma_... and
                            linear/TASK, that of the best linear guess for the same cells
                            (`flow.linear_error`)
"""

import dataclasses
import pathlib

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from emv3_jax import sharding
from emv3_jax.arrays import AnyArray
from emv3_jax.data.order import Order
from emv3_jax.data.pipeline import Dataset
from emv3_jax.diffusion import flow
from emv3_jax.errors import InputError
from emv3_jax.io.model_card import TRANSFORMER, ModelCard
from emv3_jax.models.network import Params
from emv3_jax.sampling import output
from emv3_jax.sampling import settings as sampling
from emv3_jax.sampling.clip import sample
from emv3_jax.sampling.inputs import read_inputs
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.resolution import resolve_config
from emv3_jax.tasks import names
from emv3_jax.training.batch import Batch
from emv3_jax.training.curriculum import Mixture, Stage
from emv3_jax.training.input.prefetch import local_rows, make_batch, to_mesh
from emv3_jax.training.input.sources import Source
from emv3_jax.training.monitor.metrics import BANDS, Writer
from emv3_jax.training.objectives.draws import draw
from emv3_jax.training.run.export import OTHERS, components_folder, sampling_card
from emv3_jax.training.settings import Config
from emv3_jax.training.update.programs import TrainPrograms

FOLDER = "previews"
_MIDDLES = np.asarray(np.add(BANDS[1:], BANDS[:-1]) / 2, np.float32)  # of the bands of sigma
_ALL_TASKS = Stage("held_out", 1, Mixture(**dict.fromkeys(names(), 1.0)))


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

  def __init__(self, config: Config, programs: TrainPrograms, workdir: pathlib.Path):
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
      record = {"step": step, **self._held_out.measure(average)}
      if writer is not None:
        writer.write(record, "held_out")
        logging.info("Held-out loss after step %d: %.4f.", step, record["loss"])
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
        precision=config.precision, sampling=config.sampling, mesh=config.mesh)
    # As the model folder of this run will be sampled.
    card = ModelCard(folder, config.model.transformer.variant, {}, config.name,
                     sampling_card(config))
    settings, _ = resolve_config(settings, card)
    self._request = sampling.Request(
        audio=preview.audio, prompt=preview.prompt, task=preview.task,
        face_box=preview.face_box or None, image=preview.image or None)
    self._model = Model(settings, folder, parts=OTHERS)
    self._model.denoiser()  # refuses settings that do not exist
    read_inputs(self._request, self._model.config, self._model.tokenizer_path)

  def sample(self, average: Params):
    with self._model.using(TRANSFORMER, average):
      return sample(self._model, self._request)


class HeldOut:
  """The loss on the first clips of a dataset, each once, at the middle of each band of sigma."""

  def __init__(self, config: Config, programs: TrainPrograms):
    self._config, self._forward, self._target = config, programs.forward, programs.batch_sharding
    self._rows = config.train.batch // config.train.accumulate
    dataset = Dataset(config.preview.held_out, config.model.transformer)
    order = Order(dataset.index.bucket_numbers(), self._rows, seed=None)
    self._source = Source(config.preview.held_out, dataset, order, stage=None)
    self._batches = first_seen(order, len(dataset), config.preview.batches)
    self._run = programs.jit(self._measure, donate_argnums=(),
                             out_shardings=jax.NamedSharding(programs.mesh, jax.P()))

  def _measure(self, params: Params, batch: Batch, sigma: jax.Array, rope) -> dict[str, AnyArray]:
    """By example: error [b], task [b], mean and mean square of the cells not given, [b, 2, c]."""
    config, examples = self._config, batch.example
    density = dataclasses.replace(config.loss, jitter=0.0)
    draws = draw(config.seed, density, jnp.int32(0), examples, batch.latents.shape[1:],
                 sigma=jnp.full(examples.shape, sigma))
    batch = self._forward.constrain(batch)
    drawn = jnp.float32(jnp.any(batch.mask < 1, axis=-1))
    weights = drawn / jnp.mean(drawn, axis=(1, 2, 3), keepdims=True)
    moment = lambda x: jnp.mean(weights[..., None] * x, axis=(1, 2, 3))
    return {"error": self._forward.errors(params, batch, draws, rope, weights),
            "task": batch.task,
            "moments": jnp.stack([moment(batch.latents), moment(batch.latents ** 2)], axis=1)}

  def measure(self, average: Params) -> dict[str, float]:
    """The record of held_out.jsonl for `average`; every process calls this."""
    mesh, local = self._target.mesh, local_rows(self._target, self._rows)
    found: dict[str, list[np.ndarray]] = {"error": [], "task": [], "moments": []}
    for numbers, new in self._batches:
      batch = make_batch(self._config.seed, 0, _ALL_TASKS, self._source.records(numbers[local]),
                         face_mask=self._config.loss.face_mask)
      batch = to_mesh(batch, self._target, self._rows)
      rope = sharding.replicate(self._forward.rope(batch.latents.shape), mesh)
      by_sigma = jax.device_get([self._run(average, batch, sharding.replicate(sigma, mesh), rope)
                                 for sigma in _MIDDLES])
      found["error"].append(np.stack([of_sigma["error"][new] for of_sigma in by_sigma], axis=1))
      for name in ("task", "moments"):
        found[name].append(by_sigma[0][name][new])
    return _means(**{name: np.concatenate(arrays) for name, arrays in found.items()})


def first_seen(order: Order, records: int, batches: int) -> list[tuple[np.ndarray, np.ndarray]]:
  """The first `batches` batches, less those that bring nothing new, until every record was in one.

  Returns:
    For each the record numbers [b], and bool [b]: whether that record was not there before.
  """
  found, seen, step = [], np.zeros(records, bool), 0
  while len(found) < batches and not seen.all():
    numbers = order.records(step)
    new = np.zeros(len(numbers), bool)
    new[np.unique(numbers, return_index=True)[1]] = True  # once in this batch
    new &= ~seen[numbers]
    if new.any():
      found.append((numbers, new))
    seen[numbers], step = True, step + 1
  return found


def _means(error: np.ndarray, task: np.ndarray, moments: np.ndarray) -> dict[str, float]:
  """Means of errors [n, bands] of n examples, and those of the best linear guess beside them."""
  everything, bands = np.full(len(task), True), range(len(_MIDDLES))
  groups = {f"sigma_{low}-{high}": (everything, [band])
            for band, (low, high) in enumerate(zip(BANDS[:-1], BANDS[1:], strict=True))}
  groups |= {name: (task == number, bands) for number, name in enumerate(names())
             if (task == number).any()}
  means = {"loss": float(error.mean(dtype=np.float64))}
  for name, (rows, of) in groups.items():
    mean, square = moments[rows].mean(axis=0, dtype=np.float64)
    spread = np.sqrt(np.maximum(square - mean ** 2, 0))
    cells = np.stack([mean - spread, mean + spread])  # two that have the mean and variance of all
    means[f"loss/{name}"] = float(error[rows][:, of].mean(dtype=np.float64))
    means[f"linear/{name}"] = float(np.mean([flow.linear_error(cells, _MIDDLES[band])
                                            for band in of]))
  return means
