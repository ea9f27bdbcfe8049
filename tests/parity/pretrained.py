"""A live PyTorch module of another library, and its parameters here by way of the converter."""

import pathlib

import jax.numpy as jnp
import numpy as np
import torch

from convert import plan, sources
from emv3_jax.models.network import named_leaves, nested


def randomized(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
  """Moves every parameter off its initial value, so that no gain is 1 and no bias 0."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for parameter in module.parameters():
      parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
  return module.eval()


def converted(module, folder: pathlib.Path, component: str, **given):
  """Saves the module as its library does and converts those files; `given` are config fields.

  Returns:
    The component's config as the converter infers it, and its nested float32 parameters.
  """
  module.save_pretrained(folder)
  (checkpoint,) = sources.find(str(folder)).checkpoints
  found = plan.identify(checkpoint, component, given)
  found.check()
  leaves = {name: jnp.asarray(leaf.make(), jnp.float32)
            for name, leaf in named_leaves(found.params()).items()}
  return found.config, nested(leaves)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
  return tensor.detach().numpy()
