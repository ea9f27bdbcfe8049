"""What nodes are asked about the model folder before any device is touched."""

from collections.abc import Mapping

from emv3_jax.errors import InputError
from emv3_jax.io import digests
from emv3_jax.io.model_card import read_model_card
from emv3_jax.sampling.model import UNTRAINED, folder_of


def fault(checkpoint: str, wanted: Mapping[str, str]) -> str:
  """Returns what is wrong with a model folder of this machine; empty if nothing is.

  Args:
    checkpoint: name of the model folder, see `load`.
    wanted: digests of components on the machine of the run.
  """
  if checkpoint == UNTRAINED:
    return ""
  try:
    card = read_model_card(folder_of(checkpoint))
    other = [name for name, digest in wanted.items() if digests.weights_digest(card, name) != digest]
  except InputError as error:
    return str(error)
  return (f"{checkpoint} has other weights than on the machine of the run: {', '.join(other)}; copy the model folder again."
          if other else "")
