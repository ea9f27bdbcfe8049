"""Interface of a PyTorch implementation for the comparison: its modules, and how each is called."""

from collections.abc import Callable
import dataclasses
from typing import Any, Protocol

import torch


@dataclasses.dataclass(frozen=True)
class Module:
  """A module and how it is called.

  Attributes:
    module: PyTorch module, whose parameters need not be initialised.
    names: name of its parameters' name table, see `convert.component.Layout`.
    call: function that runs it, see the method that returns it.
  """

  module: torch.nn.Module
  names: str
  call: Callable[..., Any]


class Implementation(Protocol):
  """A source of modules. All arrays are float32 in PyTorch's layout, channels second.

  Attributes:
    has_audio: whether its transformer has the audio expert.
  """

  has_audio: bool

  def versions(self) -> dict[str, str]:
    """Returns names and versions of the implementation, for the report."""
    ...

  def transformer(self, config) -> Module:
    """Returns a module with call(latents [b, 16, f, h, w], condition [b, 20, f, h, w], tau [b], text [b, m, d],
    image [b, 257, d], audio as ours or None, face_mask [b, tokens] or None) -> velocity."""
    ...

  def vae(self, config) -> Module:
    """Returns a module: call("encode", video) -> normalised latents; call("decode", latents) -> video in [-1, 1]."""
    ...

  def text_layer(self, config) -> Module:
    """Returns one layer of umT5: call(x [b, m, d], mask [b, m]) -> x."""
    ...

  def text_norm(self, config) -> Module:
    """Returns umT5's final norm: call(x) -> x."""
    ...

  def image_encoder(self, config) -> Module:
    """Returns a module with call(pixels [b, 3, h, w]) -> states [b, m, d]."""
    ...

  def audio_encoder(self, config, variant: str | None) -> Module:
    """Returns a module with call(waveform [b, n], frames or None) -> [states [b, a, d] of each layer]."""
    ...

  def solver(self, settings) -> Any:
    """Returns the scheduler of the released sampling settings, with its timesteps set."""


def layer_outputs(layers: torch.nn.ModuleList, run: Callable[[], object]) -> list[torch.Tensor]:
  """Returns the outputs of all layers while `run` runs, independent of the library's version."""
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
  """Returns the time sinusoid [b, width], cosines first, computed in float64, as float32."""
  frequency = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
  angle = tau.to(torch.float64)[:, None] * frequency
  return torch.cat([angle.cos(), angle.sin()], dim=1).float()
