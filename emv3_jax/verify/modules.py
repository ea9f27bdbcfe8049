"""What a PyTorch implementation gives for a comparison: modules, and how each is called."""

from collections.abc import Callable
import dataclasses
from typing import Any, Protocol

import torch


@dataclasses.dataclass(frozen=True)
class Module:
  """A module without weights.

  Attributes:
    module: its parameters need not be initialised.
    names: the name table that its parameters have, see `convert.component.Layout`.
    call: what runs it, see the method that made it.
  """

  module: torch.nn.Module
  names: str
  call: Callable[..., Any]


class Implementation(Protocol):
  """A source of modules. All arrays are float32 and in PyTorch's order, channels second.

  Attributes:
    hears: whether its transformer has the audio expert.
  """

  hears: bool

  def versions(self) -> dict[str, str]:
    """What it is, for the report."""
    ...

  def transformer(self, config) -> Module:
    """call(latents [b, 16, f, h, w], known [b, 20, f, h, w], tau [b], text [b, m, d],
    image [b, 257, d], audio as ours or None, face_mask [b, tokens] or None) -> velocity."""
    ...

  def vae(self, config) -> Module:
    """call("encode", video) -> normalised latents; call("decode", latents) -> video in [-1, 1]."""
    ...

  def text_layer(self, config) -> Module:
    """One layer of umT5: call(x [b, m, d], mask [b, m]) -> x."""
    ...

  def text_norm(self, config) -> Module:
    """umT5's final norm: call(x) -> x."""
    ...

  def image_encoder(self, config) -> Module:
    """call(pixels [b, 3, h, w]) -> states [b, m, d]."""
    ...

  def audio_encoder(self, config, variant: str | None) -> Module:
    """call(waveform [b, n], frames or None) -> [the states of each layer, [b, a, d]]."""
    ...

  def solver(self, settings) -> Any:
    """A scheduler of the released run, its timesteps set."""


def layer_outputs(layers: torch.nn.ModuleList, run: Callable[[], object]) -> list[torch.Tensor]:
  """What each layer gives while `run` runs: how a library hands them out differs by version."""
  outputs = []
  keep = lambda module, inputs, output: outputs.append(
      output[0] if isinstance(output, tuple) else output)
  hooks = [layer.register_forward_hook(keep) for layer in layers]
  try:
    run()
  finally:
    for hook in hooks:
      hook.remove()
  return outputs


def sinusoid(tau: torch.Tensor, width: int) -> torch.Tensor:
  """The time sinusoid [b, width] float32, cosines first, computed in float64."""
  frequency = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
  angle = tau.to(torch.float64)[:, None] * frequency
  return torch.cat([angle.cos(), angle.sin()], dim=1).float()
