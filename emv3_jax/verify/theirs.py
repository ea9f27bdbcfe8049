"""PyTorch's side: modules of an implementation, filled from the released files one at a time."""

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
  """The methods of `ours.Ours` and what they return, by an implementation in PyTorch on the CPU.

  Args:
    implementation: where the modules come from.
    originals: the released files, by component.
    settings: of the sampling run.
    variant: of the transformer.
  """

  def __init__(self, implementation: Implementation, originals: Mapping[str, Original],
               settings: Settings, variant: str | None):
    self._implementation, self._originals = implementation, originals
    self._settings, self._variant = settings, variant

  @contextlib.contextmanager
  def _module(self, name: str, make: Callable[..., Module], *arguments,
              **options) -> Iterator[Callable]:
    """The call of a filled module; nothing of it is left afterwards."""
    original = self._originals[name]
    with torch.no_grad():
      made = _built(make, original.config, *arguments)
      layout = weights.layout_of(name, made.names, self._variant)
      weights.fill(made.module, original, layout, **options)
      yield made.call
      _emptied(made.module)

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
    known = _first(conditions.condition)
    face_mask = None if inputs.face_mask is None else torch.from_numpy(inputs.face_mask)
    with self._module("transformer", self._implementation.transformer) as run:
      def velocity(latents, tau, text, voice: bool):
        return run(latents, known, tau.expand(1), text, image,
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
    """The loop of the released preview pipeline: guidance by text and by audio, both decaying, and
    a negative prompt that every one of the first steps multiplies again."""
    settings, solver = self._settings, self._implementation.solver(self._settings)
    n = settings.steps
    for i, tau in enumerate(solver.timesteps):
      if i <= settings.neg_steps:
        negative = negative * settings.neg_scale
      unguided = velocity(latents, tau, negative, False)
      silent = velocity(latents, tau, prompt, False)
      full = velocity(latents, tau, prompt, True) if self._implementation.hears else silent
      fall = (1 + (1 - math.cos(math.pi * ((n - i) / n) ** 5.0)) / 2) / 2
      guided = (unguided + settings.text_scale * fall * (silent - unguided)
                + settings.audio_scale * fall * (full - silent))
      latents = solver.step(guided, tau, latents, return_dict=False)[0]
    return latents

  def _by_audio(self, velocity: Velocity, latents, prompt, negative) -> torch.Tensor:
    """The loop of the released flash pipeline: guidance by audio alone, of constant strength."""
    solver = self._implementation.solver(self._settings)
    for tau in solver.timesteps:
      full = velocity(latents, tau, prompt, True)
      silent = velocity(latents, tau, prompt, False) if self._implementation.hears else full
      guided = silent + self._settings.audio_scale * (full - silent)
      latents = solver.step(guided, tau, latents, return_dict=False)[0]
    return latents


def _built(make: Callable[..., Module], *arguments) -> Module:
  """A module without weights; nothing in it drops out."""
  with weights.Unfilled():
    made = make(*arguments)
  made.module.eval()
  return made


def _emptied(module: torch.nn.Module) -> None:
  """Frees a module's memory, whoever still holds the module."""
  torch.nn.Module.to(module, "meta")


def _first(array: np.ndarray) -> torch.Tensor:
  """Channels second."""
  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def _last(tensor: torch.Tensor) -> np.ndarray:
  """Channels last."""
  return np.moveaxis(tensor.numpy(), 1, -1)
