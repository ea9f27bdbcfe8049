"""Components that a model folder shares with another one, without a second copy on the disk."""

import dataclasses
import os
import pathlib
import shutil

from emv3_jax.errors import InputError
from emv3_jax.io.digests import weights_digest
from emv3_jax.io.model_card import CARD, ModelCard, measure, read_model_card, write_model_card


def link_component(folder: str | os.PathLike, name: str, source: str | os.PathLike) -> None:
  """Links the component `name` of the model folder `source` into `folder`, which is created if missing.

  Files become hard links, or copies if the file system has no hard links. An existing component is
  replaced. One process calls this.

  Raises:
    InputError: the source has no complete component of that name, or `folder` cannot be written.
  """
  folder, source = pathlib.Path(folder), pathlib.Path(source)
  origin = read_model_card(source)
  card = dataclasses.replace(origin.require(name), digest=weights_digest(origin, name))
  fresh, final = folder / f"{name}.unfinished", folder / name
  own = read_model_card(folder) if (folder / CARD).exists() else ModelCard(folder, None, {})
  others = {key: value for key, value in own.components.items() if key != name}
  try:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source / name, fresh, copy_function=_link)
    if final.exists():
      write_model_card(dataclasses.replace(own, components=others))
      shutil.rmtree(final)
    fresh.rename(final)
  except (OSError, shutil.Error) as error:
    shutil.rmtree(fresh, ignore_errors=True)
    raise InputError(f"{final} could not be taken over from {source / name} ({error}).") from error
  write_model_card(dataclasses.replace(own, components={**others, name: card}))
  if measure(final) != (card.files, card.bytes):
    raise InputError(f"{source / name} changed while it was taken over; export again.")


def _link(source: str, target: str) -> None:
  try:
    os.link(source, target)
  except OSError:
    shutil.copy2(source, target)
