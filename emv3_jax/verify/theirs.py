"""PyTorch's side: modules of an implementation, which take their weights from the released files."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import math

import numpy as np
import torch

from emv3_jax.sampling.settings import Settings
from emv3_jax.verify import weights
from emv3_jax.verify.inputs import Conditions, Inputs
from emv3_jax.verify.modules import Implementation, Module
from emv3_jax.verify.originals import Original

Velocity = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, bool], torch.Tensor]


class Theirs:
  """An implementation in PyTorch on the CPU, with the methods and results of `ours.Ours`.

  Args:
    implementation: source of the modules.
    originals: the released files, by component.
    settings: settings of the sampling run.
    variant: variant of the transformer.
  """

  def __init__(self, implementation: Implementation, originals: Mapping[str, Original],
               settings: Settings, variant: str | None):
    self._implementation, self._originals = implementation, originals
    self._settings, self._variant = settings, variant

  @contextlib.contextmanager
  def _module(self, name: str, make: Callable[..., Module], *arguments,
              **options) -> Iterator[Callable]:
    """Yields the call of a module with loaded weights, which are freed afterwards."""
    original = self._originals[name]
    with torch.no_grad():
      built = _built(make, original.config, *arguments)
      layout = weights.layout_of(name, built.names, self._variant)
      weights.fill(built.module, original, layout, **options)
      yield built.call
      _emptied(built.module)

  def text(self, inputs: Inputs) -> np.ndarray:
    original = self._originals["text_encoder"]
    table = original.plan.leaves["token_embedding.embedding"]
    rows = table.take(original.plan.tensors[table.theirs].make())[inputs.ids]
    x = torch.from_numpy(rows.astype(original.stored[table.ours]).astype(np.float32))
    mask = torch.from_numpy(inputs.mask).long()
    with torch.no_grad():
      layer = _built(self._implementation.text_layer, original.config)
      layout = weights.layout_of("text_encoder", layer.names)
      for index in range(original.config.num_layers):
        weights.fill(layer.module, original, layout, lambda name: name.startswith("blocks."), index)
        x = layer.call(x, mask)
      _emptied(layer.module)
    with self._module("text_encoder", self._implementation.text_norm,
                      only=lambda name: name.startswith("norm.")) as norm:
      return norm(x).numpy()

  def image(self, inputs: Inputs) -> np.ndarray:
    with self._module("image_encoder", self._implementation.image_encoder) as run:
      return run(_first(inputs.pixels)).numpy()

  def audio(self, inputs: Inputs) -> np.ndarray:
    with self._module("audio_encoder", self._implementation.audio_encoder, self._variant) as run:
      options = inputs.audio_options
      layers = run(torch.from_numpy(inputs.waveform), options.get("frames"))
      return (torch.stack(layers, dim=2) if options.get("layers") == "all" else layers[-1]).numpy()

  def encode(self, videos: np.ndarray) -> np.ndarray:
    with self._module("vae", self._implementation.vae) as run:
      return _last(run("encode", _first(videos)))

  def decode(self, latents: np.ndarray) -> np.ndarray:
    with self._module("vae", self._implementation.vae) as run:
      return _last(run("decode", _first(latents)))

  def transformer(self, taus, inputs: Inputs, conditions: Conditions,
                  sample: bool) -> tuple[np.ndarray | None, np.ndarray | None]:
    prompt, negative, image, audio = map(torch.from_numpy, (
        conditions.prompt, conditions.negative, conditions.image, conditions.audio))
    condition = _first(conditions.condition)
    face_mask = None if inputs.face_mask is None else torch.from_numpy(inputs.face_mask)
    with self._module("transformer", self._implementation.transformer) as run:
      def velocity(latents, tau, text, voice: bool):
        return run(latents, condition, tau.expand(1), text, image,
                   audio if voice else torch.zeros_like(audio), face_mask)

      latents = _first(inputs.latents)
      velocities = np.concatenate([
          _last(velocity(latents, torch.tensor(tau), prompt, True)) for tau in taus
      ]) if taus else None
      if not sample:
        return velocities, None
      loop = self._by_text_and_audio if inputs.variant.guided_by_text else self._by_audio
      return velocities, _last(loop(velocity, _first(inputs.noise), prompt, negative))

  def _by_text_and_audio(self, velocity: Velocity, latents, prompt, negative) -> torch.Tensor:
    """Runs the loop of the released preview pipeline.

    Guidance by text and by audio decays; in each of the first steps the states of the negative prompt are
    multiplied by `neg_scale` once more.
    """
    settings, solver = self._settings, self._implementation.solver(self._settings)
    n = settings.steps
    for i, tau in enumerate(solver.timesteps):
      if i <= settings.neg_steps:
        negative = negative * settings.neg_scale
      unguided = velocity(latents, tau, negative, False)
      silent = velocity(latents, tau, prompt, False)
      full = velocity(latents, tau, prompt, True) if self._implementation.has_audio else silent
      fall = (1 + (1 - math.cos(math.pi * ((n - i) / n) ** 5.0)) / 2) / 2
      guided = (unguided + settings.text_scale * fall * (silent - unguided)
                + settings.audio_scale * fall * (full - silent))
      latents = solver.step(guided, tau, latents, return_dict=False)[0]
    return latents

  def _by_audio(self, velocity: Velocity, latents, prompt, negative) -> torch.Tensor:
    """Runs the loop of the released flash pipeline, with guidance by audio only, of constant scale."""
    solver = self._implementation.solver(self._settings)
    for tau in solver.timesteps:
      full = velocity(latents, tau, prompt, True)
      silent = velocity(latents, tau, prompt, False) if self._implementation.has_audio else full
      guided = silent + self._settings.audio_scale * (full - silent)
      latents = solver.step(guided, tau, latents, return_dict=False)[0]
    return latents


def _built(make: Callable[..., Module], *arguments) -> Module:
  """Builds a module without weights, in evaluation mode."""
  with weights.Unfilled():
    built = make(*arguments)
  built.module.eval()
  return built


def _emptied(module: torch.nn.Module) -> None:
  """Frees the memory of a module's weights, even if the module is still referenced."""
  torch.nn.Module.to(module, "meta")


def _first(array: np.ndarray) -> torch.Tensor:
  """Converts an array to a tensor with channels second."""
  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def _last(tensor: torch.Tensor) -> np.ndarray:
  """Converts a tensor to an array with channels last."""
  return np.moveaxis(tensor.numpy(), 1, -1)
