"""The cases with diffusers' own PyTorch modules, as the package has them."""

from collections.abc import Callable

from benchmarks import cases, pytorch
from emv3_jax.errors import InputError

try:
  import torch

  from emv3_jax.verify import libraries
except ModuleNotFoundError as error:
  raise InputError(f"The comparison with diffusers needs the package {error.name}; run "
                   "pip install -e '.[parity]'.") from error


def build(case: cases.Case) -> tuple[Callable[[], None], float]:
  """Makes a module with the library's random weights.

  `transformer_audio` is timed against the same module as `transformer`: diffusers has no audio.

  Returns:
    A function that runs it once, and its GFLOP.
  """
  run, inputs = _program(case)
  return pytorch.without_gradients(lambda: run(*inputs)), gflop(case)


def gflop(case: cases.Case) -> float:
  """Operations of matrix products and convolutions; nothing is run."""
  with torch.device("meta"):
    return pytorch.count(*_program(case))


def _program(case: cases.Case):
  """The module's function that is timed, and its inputs."""
  return (_transformer if isinstance(case, cases.Transformer) else _vae)(case)


def _transformer(case: cases.Transformer):
  config = case.config
  module = libraries.wan_transformer(config)
  return module.eval(), (
      torch.randn(1, config.in_channels, *case.latent_grid), torch.tensor([700]),
      torch.randn(1, config.text_tokens, config.text_dim),
      torch.randn(1, config.image_tokens, config.image_dim))


def _vae(case: cases.VAE):
  module = libraries.wan_vae(case.config).eval()
  return getattr(module, case.direction), (pytorch.vae_input(case),)
