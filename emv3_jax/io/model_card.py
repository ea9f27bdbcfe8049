"""Model cards (`model.json`): components of a model folder, checks for completeness, sampling settings.

The card of a component records a digest of its weights, and the number of files and bytes of its folder,
so that an incomplete folder is recognised before it is read. Folders of schema 1 (version 0.1) have no
digests and no `sampling`; they can be read as well.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

from emv3_jax.errors import InputError
from emv3_jax.io.atomic import write_json
from emv3_jax.limits import shown
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime.command_names import as_called

SCHEMA = 2
READABLE = (1, SCHEMA)
CARD = "model.json"
TRANSFORMER = "transformer"


@dataclasses.dataclass(frozen=True)
class ComponentCard:
  """The entry of one component in `model.json`.

  Attributes:
    config: fields of the network's config dataclass; JSON lists come back as tuples.
    dtype: dtype of the stored parameters, "mixed" if they differ.
    sources: {"file", "sha256", "bytes"} of the files it was converted from.
    files: number of files in the component's folder.
    bytes: their total size.
    digest: digest of its weights, see `io.digests`; empty in folders of schema 1.
    features: settings of the feature extractor published with it, by their published names; empty if
      there is none.
  """

  config: dict
  dtype: str
  sources: tuple[dict, ...] = ()
  files: int = 0
  bytes: int = 0
  digest: str = ""
  features: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SamplingCard:
  """Sampling settings of a model; `sampling.resolution` combines them with those of the user.

  Attributes:
    must_match: settings that must be those of the training, by field of SamplingConfig.
    recommended: further settings, by field of SamplingConfig, that a user may change.
    precision: dtypes by component, used if the caller gives no config.
  """

  must_match: dict = dataclasses.field(default_factory=dict)
  recommended: dict = dataclasses.field(default_factory=dict)
  precision: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ModelCard:
  """The contents of `model.json` in `folder`.

  Attributes:
    folder: the model folder.
    variant: variant of the transformer; None without a transformer.
    components: cards of the components, by name.
    name: name of the model in reports and metadata; empty in folders of schema 1.
    sampling: sampling settings of the transformer; None if the folder has none.
  """

  folder: pathlib.Path
  variant: str | None
  components: dict[str, ComponentCard]
  name: str = ""
  sampling: SamplingCard | None = None

  def require(self, name: str, variant: str | None = None) -> ComponentCard:
    """Returns the card of component `name` after checking that all its files exist.

    Args:
      name: e.g. "transformer".
      variant: the variant that the caller needs, None for any.

    Raises:
      InputError: the component is absent or incomplete, or the folder is of another variant.
    """
    if name not in self.components:
      if any(self.folder.glob(f"{name}.unfinished*")):
        raise InputError(f"{self.folder / name} is being written, or its writing was cut off: "
                         f"{self.folder} has {name}.unfinished only.\n"
                         "Wait for the end of the writing, or write it again.")
      present = ", ".join(sorted(self.components)) or "none"
      raise InputError(f"{self.folder} has no component {name}; present: {present}.\n"
                       f"Add it: {as_called('emv3-convert')} SOURCE {self.folder}")
    if variant is not None and self.variant != variant:
      raise InputError(f"{self.folder} holds the variant {self.variant}, wanted {variant}: give "
                       "the folder of that variant, or a config that fits this one.")
    card = self.components[name]
    if not self.is_whole(name):
      files, size = measure(self.folder / name)
      raise InputError(f"{self.folder / name} is not whole: found {files} files, {size} bytes; "
                       f"{card.files} files, {card.bytes} bytes were written.\n"
                       "Convert or copy it again.")
    return card

  @property
  def normalises_waveform(self) -> bool:
    """Returns whether the audio encoder takes waveforms of mean 0 and variance 1; True if not recorded."""
    audio = self.components.get("audio_encoder")
    return audio is None or audio.features.get("do_normalize", True)

  def is_whole(self, name: str) -> bool:
    """Returns whether all files of a component exist."""
    card = self.components[name]
    return measure(self.folder / name) == (card.files, card.bytes)


def read_model_card(folder: str | os.PathLike) -> ModelCard:
  """Reads and checks `folder/model.json`.

  Raises:
    InputError: the folder or its card is missing, cannot be read, or is of another schema version.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise InputError(f"Checkpoint folder {folder} does not exist.\n"
                     f"Released weights become one by: {as_called('emv3-convert')} SOURCE {folder}; how a "
                     "config's own are trained is written at its head.")
  path = folder / CARD
  if not path.exists():
    raise InputError(f"{folder} has no {CARD}: it is not a converted model, or was not written to "
                     f"the end.\nMake one: {as_called('emv3-convert')} SOURCE {folder}")
  try:
    content = json.loads(path.read_text())
    if content["schema"] in READABLE:
      components = {name: config_lib.build(ComponentCard, _tuples(card), f"components.{name}")
                    for name, card in content["components"].items()}
      settings, variant, name = content.get("sampling"), content.get("variant"), content.get("name", "")
      if not isinstance(variant, str | None) or not isinstance(name, str):
        raise TypeError(f"variant is {shown(variant)} and name {shown(name)}; expected texts")
      return ModelCard(folder, variant, components, name, None if settings is None else
                       config_lib.build(SamplingCard, _tuples(settings), "sampling"))
  except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
    raise InputError(f"{path} cannot be read ({type(error).__name__}: {error}).\n"
                     "Convert the model again.") from error
  raise InputError(f"{path} has schema version {content['schema']!r}, this program reads "
                   f"{' and '.join(map(str, READABLE))}.\n"
                   "Convert the model again, or use the version of the program that wrote it.")


def write_model_card(card: ModelCard) -> None:
  """Writes `model.json` atomically.

  Raises:
    InputError: the file cannot be written.
  """
  content = {"schema": SCHEMA, "name": card.name, "variant": card.variant,
             "sampling": card.sampling and dataclasses.asdict(card.sampling),
             "components": {name: _component(component)
                            for name, component in sorted(card.components.items())}}
  write_json(card.folder / CARD, content)


def _component(card: ComponentCard) -> dict:
  """Returns the entry of a component; earlier versions can read it unless it has features."""
  content = dataclasses.asdict(card)
  return content if card.features else {key: value for key, value in content.items()
                                        if key != "features"}


def measure(folder: pathlib.Path) -> tuple[int, int]:
  """Returns number and total size in bytes of the files below `folder`."""
  sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
  return len(sizes), sum(sizes)


def _tuples(value: Any) -> Any:
  """Converts JSON lists to tuples, so that a config built from them is hashable."""
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
