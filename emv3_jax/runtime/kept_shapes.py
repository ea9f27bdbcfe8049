"""Shapes of networks' parameters in the program cache: a start that loads programs builds no network."""

import json
from typing import TypeVar

import jax

from emv3_jax.models.network import Network, named_leaves, nested
from emv3_jax.runtime import executables, kept_programs

_Network = TypeVar("_Network", bound=Network)


def recall(network: _Network, identity: str) -> _Network:
  """Sets the shapes of a network from the program cache, or keeps them there; returns the network.

  Args:
    network: a new network.
    identity: what it was made from, as text.
  """
  kept = kept_programs.folder
  if kept is None:
    return network
  key = executables.key_of(shapes_of=identity, code=executables.code(), versions=executables.environment()["versions"])
  content = kept.load(key)
  if content is not None:
    network.abstract = nested({name: jax.ShapeDtypeStruct(shape, dtype)
                               for name, (shape, dtype) in json.loads(content).items()})
  elif kept.writable:
    found = {name: (leaf.shape, leaf.dtype.name) for name, leaf in named_leaves(network.abstract).items()}
    kept.keep(key, json.dumps(found).encode())
  return network
