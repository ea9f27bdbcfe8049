"""Which parameters a stage trains; the others cost no gradient and no optimiser state."""

from emv3_jax.models.network import Params, named_leaves, nested
from emv3_jax.training.curriculum import Trained


def is_audio(name: str) -> bool:
  """Whether a parameter, by dotted name, belongs to the audio path."""
  return name.startswith("audio_projection.") or any(
      part.endswith("_audio") for part in name.split("."))


def split(params: Params, trained: Trained) -> tuple[Params, Params]:
  """Parameters that are trained and those that are frozen, as two nested dicts."""
  named = named_leaves(params)
  chosen = {name: leaf for name, leaf in named.items() if trained == "all" or is_audio(name)}
  return nested(chosen), nested({name: named[name] for name in named.keys() - chosen.keys()})


def merge(trained: Params, frozen: Params) -> Params:
  """Inverse of `split`."""
  return nested(named_leaves(trained) | named_leaves(frozen))
